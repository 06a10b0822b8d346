/* SPDX-License-Identifier: Apache-2.0
 * The cost model: how long a config takes for a problem. On Hopper by constants fitted to times (costs_GPU.def),
 * elsewhere by what the GPU says of itself. */
#include "backend/cuda/costs.h"
#include "backend/cuda/device.h"

#include "core/memory.h"
#include "sm80/decode_params.h"
#include "sm90/shape.h"

#include <math.h>

/** Bytes that a multiplication must move: the weight, and A and C once. */
static double least_bytes(const w4_problem *problem) {
    w4_packed_layout layout = w4_cuda_layout(problem);
    return (double)layout.bytes + 2 * (double)problem->m * (double)(problem->k + problem->n);
}

/** What the busiest worker has to do: stages, in how many tiles that are its own, and of tiles that are shared out, and
 * how many workers share each of these; in how many passes a decode config's stages are, and how full. */
typedef struct load {
    double stages, tiles, shared, sharers, passes, fullness;
} load;

static load busiest(const w4_cuda_config *config, const w4_problem *problem, const w4_cuda_shape *shape) {
    const w4_schedule *schedule = &shape->schedule;
    if (config->decode) { /* passes over k, whose steps the warps share out */
        int64_t slices = w4_ceil_divide(w4_ceil_divide(problem->n, W4_SLICE_ROWS), shape->grid);
        int64_t passes = w4_ceil_divide(slices, config->public.tile_n / W4_SLICE_ROWS);
        int64_t steps = w4_ceil_divide(schedule->stages, config->warps / config->row_warps);
        return (load){.stages = (double)(passes * steps),
                      .passes = (double)passes,
                      .fullness = (double)(slices * W4_SLICE_ROWS) / (double)(passes * config->public.tile_n)};
    }
    if (schedule->split)
        return (load){.stages = (double)w4_ceil_divide(schedule->stages, schedule->split),
                      .sharers = (double)schedule->split};
    int64_t own =
        w4_ceil_divide((int64_t)schedule->tiles_m * schedule->tiles_n - schedule->split_tiles, schedule->workers);
    int64_t shared = w4_ceil_divide((int64_t)schedule->split_tiles * schedule->stages, schedule->workers);
    return (load){
        .stages = (double)(own * schedule->stages + shared),
        .tiles = (double)own,
        .shared = (double)shared,
        .sharers = schedule->split_tiles ? (double)schedule->workers / schedule->split_tiles : 0,
    };
}

/** What the GPU says of itself, for configs that were never measured on it: clocks and bytes a second. */
static double clock_of(const w4_device *device) {
    return device->clock > 0 ? device->clock : 1.5e9;
}
static double read_rate_of(const w4_device *device) {
    static const double SHARE = 0.9; /* of the memory's rate */
    return SHARE * (device->memory_rate > 0 ? device->memory_rate : 1e12);
}

/** Seconds that an sm80 config's stages take, where it was never measured. A stage takes the longest of: its
 * multiplications, on an SM that its blocks share; reading its weights, at this SM's share of the memory's rate;
 * the SM's instructions; what one warp takes for its part, however empty the SM is. The constants are those at which
 * the choices on an H200 come out best (sm_90 code, seven shapes, M = 32 to 2048): 1.3 % slower than the best config in
 * the mean; the times of 26 configs are 14 % off in the root mean square. */
static double sm80_run(const w4_device *device, const w4_cuda_config *config, const w4_cuda_shape *shape, load work) {
    static const double SHARER = 1.0e-6, FEED = 0.7, ANY_GROUP = 1.25, BARRIER = 500, SINGLE = 0.9;
    /* Clocks for 16 x 64 weights, and more for each 8 tokens: of an SM, and of a warp. A warp with 16 rows loads all
     * tokens for these alone. */
    static const double ISSUE_WEIGHTS = 38, ISSUE_TOKENS = 7.5, ONE_SLICE = 1.08;
    static const double WARP_WEIGHTS = 180, WARP_TOKENS = 20, WARP_STAGE = 700;
    const w4_config *tile = &config->public;
    double clock = clock_of(device);
    /* Blocks on an SM, of those that there are. */
    double together = (double)shape->schedule.workers / device->processors,
           weights = (double)tile->tile_n * tile->tile_k;
    if (together < 1) together = 1;
    double multiply = 2 * weights * tile->tile_m / (FEED * device->runs.flop_per_clock) / clock * together;
    double busy = shape->schedule.workers < device->processors ? shape->schedule.workers : device->processors;
    double read = (double)(tile->tile_n / W4_BLOCK_ROWS * shape->slot_bytes) * busy / read_rate_of(device) * together;
    double issue = weights / 1024 * (ISSUE_WEIGHTS + ISSUE_TOKENS * tile->tile_m / 8) / clock * together;
    if (tile->tile_n == 16 * config->warps) issue *= ONE_SLICE;
    double stage = multiply > issue ? multiply : issue;
    /* Where no other block is on the SM, nobody has work when all warps wait for one another; and else less time is
     * lost. */
    if (shape->resident == 1) stage = SINGLE * stage + BARRIER / clock;
    if (config->any_group) stage *= ANY_GROUP;
    if (stage < read) stage = read;
    double warp = WARP_STAGE + weights / 1024 / config->warps * (WARP_WEIGHTS + WARP_TOKENS * tile->tile_m / 8);
    if (stage < warp / clock) stage = warp / clock;
    if (shape->ring < 3) stage += WARP_STAGE / clock; /* copies have no more than the time of one stage */
    return work.stages * stage + work.sharers * SHARER;
}

/** The same of a decode config: its warps' instructions for a step of 16 x 128 weights, at about every second clock. */
static double decode_run(const w4_device *device, const w4_cuda_config *config, load work) {
    double slices = (double)config->public.tile_n / W4_SLICE_ROWS / config->row_warps;
    return work.stages * (100 + 3.0 * config->public.tile_m) * slices * config->warps / 2 / clock_of(device);
}

/** The same of an sm90 config, by its tile: a least-squares fit to the stages of the configs in costs_h200.def, 16 %
 * off in the root mean square; what a further tile or a worker takes that shares one is their median. */
static double sm90_run(const w4_cuda_config *config, load work) {
    static const double STAGE = 230, WEIGHTS = 7.3, PRODUCTS = 12, ANY_GROUP = 13, PART = 0.2;
    static const double TILE = 1140, SHARER = 430, SPLIT = 800;
    const w4_config *tile = &config->public;
    double weights = (double)(tile->tile_n / config->cluster) * tile->tile_k / 1024;
    double products = weights * tile->tile_m / 64;
    double stage = STAGE + WEIGHTS * weights + (PRODUCTS + (config->any_group ? ANY_GROUP : 0)) * products;
    stage /= 1 + PART * (config->parts - 1);
    double further = config->split      ? work.sharers * SPLIT
                     : config->stream_k ? work.sharers * SHARER
                                        : (work.tiles - 1) * TILE;
    return 1e-9 * (work.stages * stage + further);
}

/** Workers on the busiest SM. */
static int64_t workers_together(const w4_device *device, const w4_cuda_config *config, const w4_cuda_shape *shape) {
    int32_t slots = w4_cuda_worker_slots(device, config, shape);
    return w4_ceil_divide(shape->schedule.workers, w4_maximum(slots / shape->resident, 1));
}

/** Stages of all tiles over all places for workers; where places are left, those on the busiest SM if that is more: two
 * workers on one slow each other down. */
static double mean_stages(const w4_device *device, const w4_cuda_config *config, const w4_cuda_shape *shape,
                          load work) {
    const w4_schedule *schedule = &shape->schedule;
    int32_t slots = w4_cuda_worker_slots(device, config, shape);
    double mean = (double)schedule->tiles_m * schedule->tiles_n * schedule->stages / slots;
    if (config->decode || (schedule->workers >= slots && !config->split)) return mean;
    double crowded = (double)workers_together(device, config, shape) / shape->resident * work.stages;
    return crowded > mean ? crowded : mean;
}

/** How much longer a decode config is said to take where groups have 32 or 64 columns. On seven shapes of an H200, M =
 * 1 to 16, those of 32 take 1.3 to 2.1 times as long as the model says of groups of 128, by the config; with 1.4, as
 * with 1.5, choices are 3.8 % slower than the best config in the mean, without 7.2 %. Groups of 64 take 1.1 to 1.3
 * times as long, but choices between decode configs and others, M = 1 to 256, are best with 1.05: symmetric 1.3 %
 * slower in the mean, 8 % at worst; without 2.6 and 30 %, with 1.1 1.6 and 13 %. */
static double short_groups(const w4_cuda_config *config, const w4_cuda_shape *shape) {
    static const double GROUPS_OF_32 = 1.4, GROUPS_OF_64 = 1.05;
    if (!config->decode) return 1;
    return shape->lines == W4_STEP_COLUMNS / 32   ? GROUPS_OF_32
           : shape->lines == W4_STEP_COLUMNS / 64 ? GROUPS_OF_64
                                                  : 1;
}

/** Seconds that are known besides what was fitted: each further pass of a decode config costs a round of barriers and
 * sums. This and the constants below are tools/gpu_costs.py's, which says where they are from. */
static double besides(const w4_cuda_config *config, load work) {
    static const double PASS = 0.4e-6, PASS_OF_TOKEN = 0.0375e-6;
    return config->decode ? (PASS + PASS_OF_TOKEN * config->public.tile_m) * (work.passes - 1) : 0;
}

/** The fourth root of the sum of fourth powers: two limits near each other are slower together than either alone. */
static double soft_maximum(double a, double b) {
    return sqrt(sqrt(a * a * a * a + b * b * b * b));
}

/** Whether a worker's share of the tiles that are shared out is a part of one tile. */
static bool run_in_tile(const w4_schedule *schedule) {
    return schedule->workers % schedule->split_tiles == 0;
}

/** Tiles that a run through those that are shared out is in, at most. */
static double tiles_of_run(const w4_schedule *schedule, load work) {
    return ceil((work.shared - 1) / schedule->stages) + 1;
}

/** In whole turns of the parts of a kernel. */
static double whole_turns(const w4_cuda_config *config, double stages) {
    return ceil(stages / config->parts) * config->parts;
}

/** Stages in whole turns of the parts of a kernel that take them in turns, half a turn being lost in the mean where a
 * run goes from tile to tile; of a decode config by how full they are. */
static double turns_of(const w4_cuda_config *config, const w4_cuda_shape *shape, load work) {
    if (config->decode) return work.stages * work.fullness;
    const w4_schedule *schedule = &shape->schedule;
    if (schedule->split) return whole_turns(config, work.stages);
    double stages = work.tiles * whole_turns(config, schedule->stages);
    if (!schedule->split_tiles) return stages;
    if (run_in_tile(schedule)) return stages + whole_turns(config, work.shared);
    return stages + work.shared + tiles_of_run(schedule, work) * (config->parts - 1) / 2;
}

/** What comes once more for the busiest worker: tiles, and parts of tiles, after its first, and further workers of a
 * tile, whose sums its first one adds up. Of a decode config stages in full: a step costs something besides its
 * weights. */
static double pieces_of(const w4_cuda_config *config, const w4_cuda_shape *shape, load work) {
    if (config->decode) return work.stages;
    const w4_schedule *schedule = &shape->schedule;
    if (schedule->split) return work.sharers;
    if (!schedule->split_tiles) return work.tiles - 1;
    if (run_in_tile(schedule)) return work.tiles + work.sharers - 1;
    return work.tiles + tiles_of_run(schedule, work) - 1 + ceil((schedule->stages - 1) / work.shared);
}

/** Seconds until all workers have the weights that they ask for at first, to fill their rings, before anything can be
 * multiplied: each byte comes once from memory, and once for each worker through L2. */
static double fill_time(const w4_cuda_config *config, const w4_problem *problem, const w4_cuda_shape *shape, load work,
                        double rate) {
    static const double RING = 200e3, FILL_SHARE = 0.85; /* of an SM, of the rate */
    static const double CACHE_RATE = 3.4e12;
    const w4_config *tile = &config->public;
    double weights = (double)(tile->tile_n / config->cluster / W4_BLOCK_ROWS) * shape->slot_bytes;
    double places = RING / shape->resident / (weights + 2.0 * tile->tile_m * tile->tile_k);
    double all = (double)w4_cuda_layout(problem).bytes, rings = shape->grid * weights * places;
    double cold = (rings < all ? rings : all) / (FILL_SHARE * rate);
    double asked = weights * (places < work.stages ? places : work.stages);
    return fmax(cold, shape->grid * asked / CACHE_RATE);
}

/** Seconds that loading the activations of all tiles takes: rows past the last token, where the copy engine fills them
 * with zeros, longer than those that are there. */
static double rows_time(const w4_cuda_config *config, const w4_problem *problem, const w4_cuda_shape *shape) {
    static const double ROW = 7e-12, EMPTY = 29e-12;                                   /* of 64 columns */
    bool few = W4_SM90_FEW_TOKENS(problem->m, config->public.tile_m, config->cluster); /* no others are copied */
    double tokens = (double)problem->m, rows = few ? tokens : (double)shape->schedule.tiles_m * config->public.tile_m;
    double lines = (double)shape->schedule.tiles_n * config->cluster * (double)w4_ceil_divide(problem->k, 64);
    return lines * (rows * ROW + (rows - tokens) * EMPTY);
}

/** Seconds of a fitted config on a GPU with that cost and rate of reading, but for those besides, if reading all
 * weights took no time; tools/gpu_costs.py says the same, and what the terms mean. */
static double fitted_run(const w4_device *device, const w4_cuda_config *config, const w4_problem *problem,
                         const w4_cuda_shape *shape, load work, const w4_cuda_cost *cost, double rate) {
    double run = 1e-9 * turns_of(config, shape, work) * cost->stage;
    if (!config->decode) {
        run = soft_maximum(run, rows_time(config, problem, shape));
        run += fill_time(config, problem, shape, work, rate);
    }
    double around = 1e-9 * (cost->call + pieces_of(config, shape, work) * cost->further);
    double whole = around + soft_maximum(run, 1e-9 * mean_stages(device, config, shape, work) * cost->saturated);
    return whole * short_groups(config, shape);
}

bool w4_cuda_config_rough(const w4_device *device, size_t index) {
    return device->runs.sm90 && !w4_cuda_cost_of(device, index); /* elsewhere one model serves all configs */
}

double w4_cuda_config_cost(const w4_device *device, size_t index, const w4_problem *problem) {
    static const double CALL = 4e-6, H200_CLOCK = 1.98e9; /* the highest, as the driver says it */
    const w4_cuda_config *config = &w4_cuda_configs[index];
    w4_cuda_shape shape = w4_cuda_shape_make(device, index, problem, problem->m);
    load work = busiest(config, problem, &shape);
    const w4_cuda_cost *cost = w4_cuda_cost_of(device, index);
    double rate = w4_cuda_measured_rate(device);
    if (!(rate > 0)) rate = read_rate_of(device);
    double reading = least_bytes(problem) / rate, seconds, memory;
    if (cost && device->runs.sm90) {
        seconds = fitted_run(device, config, problem, &shape, work, cost, rate) + besides(config, work);
        memory = reading;
    } else if (cost && config->decode) {
        /* The same code takes about as many clocks as on an H200; what reading takes is this GPU's, and calls do not
         * overlap. Where memory is the limit, a pass costs half as much, for the next one's loads are on their way:
         * 0.28 and 0.62 us on an H200 (sm80_n64m8w12_decode, 152064 x 3584 and 57344 x 8192, M = 1). */
        double clock = H200_CLOCK / clock_of(device), more = besides(config, work);
        seconds = clock * (fitted_run(device, config, problem, &shape, work, cost, rate) + more);
        memory = clock * (1e-9 * cost->call + more / 2) + reading;
    } else {
        seconds = CALL + (config->decode ? decode_run(device, config, work)
                          : config->sm80 ? sm80_run(device, config, &shape, work)
                                         : sm90_run(config, work));
        memory = CALL + reading;
    }
    return seconds > memory ? seconds : memory;
}
