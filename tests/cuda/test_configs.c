/* SPDX-License-Identifier: Apache-2.0
 * The table of configs without a GPU: what each makes of a problem must fit the GPU, its workspace and its promises,
 * and every problem must find a config. */
#include "api/number_oracle.h"
#include "backend/cuda/device.h"
#include "core/memory.h"
#include "plan/plan.h"
#include "sm80/shape.h"
#include "sm90/shape.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { REASON_BYTES = 160, SHARED_OF_A_BLOCK = 1024 };

/* GPUs, as far as configs ask: an H200 first. */
static const struct {
    int32_t capability;
    const char *forced;
    int32_t processors, shared_limit, shared_of_sm, threads_of_sm;
    double clock, memory_rate;
} gpus[] = {
    {90, NULL, 132, 232448, 233472, 2048, 1.98e9, 4.9e12},  {90, "sm80", 132, 232448, 233472, 2048, 1.98e9, 4.9e12},
    {80, NULL, 108, 166912, 167936, 2048, 1.41e9, 2.0e12},  {86, NULL, 72, 101376, 102400, 1536, 1.70e9, 0.6e12},
    {89, NULL, 128, 101376, 102400, 1536, 2.52e9, 1.0e12},  {89, NULL, 18, 101376, 102400, 1536, 0, 0},
    {120, NULL, 170, 101376, 102400, 1536, 2.41e9, 1.8e12}, {100, NULL, 148, 232448, 233472, 2048, 1.97e9, 8.0e12},
};
static w4_device device;

static void use_gpu(size_t index) {
    char reason[200];
    device = (w4_device){.processors = gpus[index].processors,
                         .shared_limit = gpus[index].shared_limit,
                         .shared_of_sm = gpus[index].shared_of_sm,
                         .threads_of_sm = gpus[index].threads_of_sm,
                         .clock = gpus[index].clock,
                         .memory_rate = gpus[index].memory_rate};
    assert_true(
        w4_cuda_architecture_find(gpus[index].capability, gpus[index].forced, &device.runs, reason, sizeof reason));
}

static int reset_device(void **state) {
    (void)state;
    use_gpu(0);
    return 0;
}

/** Half the time a Hopper GPU, now and then with fewer or more processors than an H200, one of them odd; or another
 * GPU. */
static void draw_device(uint64_t *seed) {
    static const int32_t processors[] = {132, 132, 132, 114, 78, 131, 144, 16};
    use_gpu(oracle_below(seed, 2) ? 0 : oracle_below(seed, sizeof gpus / sizeof *gpus));
    if (device.runs.first == 90)
        device.processors = processors[oracle_below(seed, sizeof processors / sizeof *processors)];
}

static void fail_problem(const w4_problem *p, size_t index, int64_t m, const char *what) {
    fail_msg("%s, %d processors, m %" PRId64 ": problem of m %" PRId64 " n %" PRId64 " k %" PRId64 " groups of %" PRId64
             ", %s scales%s, zeros %d, flags %" PRIu32 ": %s",
             index < w4_cuda_config_count ? w4_cuda_configs[index].public.name : "(any)", (int)device.processors, m,
             p->m, p->n, p->k, p->group_size, w4a16_dtype_name(p->scale_dtype), p->uneven_scales ? " far apart" : "",
             (int)p->zero_kind, p->flags, what);
}

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) fail_problem(p, index, m, "not so: " #condition);                                            \
    } while (0)

static int64_t pick(uint64_t *seed, const int64_t *values, size_t count) {
    return values[oracle_below(seed, count)];
}
#define PICK(seed, values) pick(seed, values, sizeof(values) / sizeof *(values))

static w4_problem draw_problem(uint64_t *seed) {
    static const int64_t ms[] = {1,   2,   8,   9,   16,  17,  31,  32,   33,   64,  65,
                                 128, 129, 192, 256, 257, 511, 512, 1024, 4096, 9000};
    static const int64_t ns[] = {1,   7,   63,   64,   65,   127,  128,   129,   191,   192,   193,
                                 256, 257, 1000, 1024, 4096, 8448, 11008, 14336, 28672, 33792, 131073};
    static const int64_t ks[] = {1,   2,   31,  32,  33,  63,  64,   65,   96,    127,   128,   129,
                                 192, 255, 256, 257, 320, 512, 1000, 4096, 11008, 14336, 28672, 1 << 20};
    static const int64_t groups[] = {32, 64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 4096, INT64_MAX};
    static const w4a16_dtype scales[] = {W4A16_FP16, W4A16_BF16, W4A16_FP32};
    w4_problem p = {
        .m = oracle_below(seed, 3) ? PICK(seed, ms) : 1 + (int64_t)oracle_below(seed, 9000),
        .n = oracle_below(seed, 3) ? PICK(seed, ns) : 1 + (int64_t)oracle_below(seed, 30000),
        .k = oracle_below(seed, 3) ? PICK(seed, ks) : 1 + (int64_t)oracle_below(seed, 30000),
        .a_dtype = oracle_below(seed, 2) ? W4A16_FP16 : W4A16_BF16,
        .c_dtype = oracle_below(seed, 2) ? W4A16_FP16 : W4A16_BF16,
        .scale_dtype = scales[oracle_below(seed, 3)],
        .zero_kind = (w4a16_zero_kind)oracle_below(seed, 3),
        .flags = oracle_below(seed, 2) ? W4A16_PLAN_BATCH_INVARIANT : 0,
        .uneven_scales = oracle_below(seed, 4) == 0,
    };
    p.group_size = w4_minimum(PICK(seed, groups), p.k); /* as w4_problem_resolve does */
    return p;
}

static int64_t slots_of(const w4_cuda_config *config, const w4_cuda_shape *shape) {
    return device.processors * shape->resident / config->cluster;
}

/** Tiles cover C, and no tile is outside of it; workers all have work, and are all on the GPU at once. */
static void check_schedule(const w4_problem *p, size_t index, int64_t m, const w4_cuda_shape *shape) {
    const w4_cuda_config *config = &w4_cuda_configs[index];
    const w4_schedule *s = &shape->schedule;
    int64_t tile_m = config->public.tile_m, tile_n = config->public.tile_n, tile_k = config->public.tile_k;
    EXPECT(s->tiles_m * tile_m >= m && (s->tiles_m - 1) * tile_m < m);
    EXPECT(s->tiles_n * tile_n >= p->n && (s->tiles_n - 1) * tile_n < p->n);
    EXPECT(s->stages * tile_k >= p->k && (s->stages - 1) * tile_k < p->k);
    EXPECT(s->band >= 1);
    if (config->decode) { /* a worker has slices of 16 out features */
        EXPECT(s->workers >= 1 && s->workers <= w4_maximum(device.processors, 1));
        EXPECT(s->workers <= (p->n + 15) / 16 && shape->grid == (uint32_t)s->workers && s->split_tiles == 0);
        EXPECT(shape->threads == 32u * (uint32_t)config->warps && shape->threads <= 1024);
        return;
    }
    int64_t tiles = (int64_t)s->tiles_m * s->tiles_n, split = s->split_tiles, split_stages = split * s->stages;
    if (config->split) { /* not all that come out are feasible */
        EXPECT(s->split == config->split && s->workers == tiles * s->split && split == 0);
        EXPECT(shape->grid == (uint32_t)s->workers);
        return;
    }
    EXPECT(s->split == 0);
    EXPECT(s->workers >= 1 && s->workers <= slots_of(config, shape));
    EXPECT(split >= 0 && split <= tiles);
    EXPECT(split == 0 || config->stream_k);
    EXPECT(split == 0 || split_stages >= s->workers);
    EXPECT(split == 0 || tiles % slots_of(config, shape)); /* whole waves need no sharing */
    EXPECT(split_stages <= INT32_MAX);                     /* what a cursor counts in */
    EXPECT(split > 0 || s->workers <= tiles);
    EXPECT(split == 0 || (tiles - split) % s->workers == 0); /* what is not split fills whole waves */
    EXPECT(shape->grid == (uint32_t)(s->workers * config->cluster));
    EXPECT(shape->threads == 32u * (uint32_t)(config->warps + (config->sm80 ? 0 : 4)) && shape->threads <= 1024);
    EXPECT(shape->resident >= 1 && shape->resident <= config->resident);
    if (!config->sm80 && !device.runs.sm90) return; /* never launched */
    EXPECT((int32_t)shape->threads * shape->resident <= device.threads_of_sm);
}

/** Shared memory: what a stage holds, how many there are, and blocks that must fit on an SM together. */
static void check_shared(const w4_problem *p, size_t index, int64_t m, const w4_cuda_shape *shape) {
    const w4_cuda_config *config = &w4_cuda_configs[index];
    int64_t tile_m = config->public.tile_m, tile_k = config->public.tile_k;
    int64_t strips = config->public.tile_n / config->cluster / 64, codes = tile_k / 64 * 2048;
    EXPECT(shape->shared_bytes <= device.shared_limit);
    EXPECT(shape->resident * ((int64_t)shape->shared_bytes + SHARED_OF_A_BLOCK) <= device.shared_of_sm);
    EXPECT(shape->ring >= 2 && shape->ring <= (config->sm80 ? W4_SM80_MOST_STAGES : W4_SM90_MOST_STAGES));
    if (config->decode) { /* tile_k is a step of a warp */
        int64_t slices = config->public.tile_n / 16 / config->row_warps, most = 0;
        EXPECT(config->public.tile_n % (16 * config->row_warps) == 0 && config->warps % (2 * config->row_warps) == 0);
        for (int64_t first = 0; first < p->k; first += tile_k) {
            int64_t last = w4_minimum(first + tile_k, p->k) - 1;
            most = w4_maximum(most, last / p->group_size - first / p->group_size + 1);
        }
        EXPECT(p->m <= tile_m && shape->lines >= most && shape->ring == config->stages);
        EXPECT(shape->slot_bytes >= slices * 1024 + 2 * 128 * tile_m + shape->lines * slices * 16 * 4);
        EXPECT(shape->shared_bytes >= config->warps * (512 + config->stages * shape->slot_bytes));
        return;
    }
    if (config->split) EXPECT(shape->grid <= (uint32_t)slots_of(config, shape)); /* all on the GPU at once */
    /* Groups that the stages of tile_k columns touch. */
    int64_t lines = 1;
    for (int64_t first = 0; first < p->k && first < 16 * p->group_size; first += tile_k) {
        int64_t last = w4_minimum(first + tile_k, p->k) - 1;
        lines = w4_maximum(lines, last / p->group_size - first / p->group_size + 1);
    }
    int64_t zero_bytes = p->zero_kind == W4A16_ZERO_FLOAT ? 4 : p->zero_kind == W4A16_ZERO_INTEGER ? 1 : 0;
    int64_t line_bytes = 64 * ((p->scale_dtype == W4A16_FP32 ? 4 : 2) + zero_bytes);
    EXPECT(shape->lines >= lines && shape->lines <= tile_k / (config->any_group ? 32 : 64));
    EXPECT(shape->slot_bytes >= codes + shape->lines * line_bytes);
    EXPECT(shape->slot_bytes % 16 == 0); /* what copies start and end at */
    if (config->sm80) {
        EXPECT(shape->stage_bytes >= tile_m * tile_k * 2 + strips * shape->slot_bytes);
        EXPECT(shape->stage_bytes % W4_SM80_ALIGNMENT == 0);
        EXPECT(shape->shared_bytes >= W4_SM80_FIXED_BYTES + shape->ring * shape->stage_bytes);
        return;
    }
    /* Barriers, 32 bytes of results for each of a warp's 16 tokens, and the stages. */
    /* Parts: as many places in the ring each, two at least. The first turns results over, the others leave sums. */
    EXPECT(shape->ring % config->parts == 0 && shape->ring >= 2 * config->parts);
    EXPECT(shape->shared_bytes >= shape->ring * 16 + config->warps / config->parts * 16 * 32 +
                                      (config->parts - 1) * 64 * strips * tile_m * 4 +
                                      shape->ring * (tile_m * tile_k * 2 + strips * shape->slot_bytes));
}

/** A launch for m tokens stays within a workspace for p->m of them. */
static void check_workspace(const w4_problem *p, size_t index, int64_t m, const w4_cuda_shape *shape) {
    const w4_cuda_config *config = &w4_cuda_configs[index];
    size_t whole = w4_cuda_workspace_size(&device, index, p);
    size_t gathered = (size_t)(p->m * w4_round_up(p->k, 64) * 2);
    EXPECT(whole >= gathered + shape->partial_bytes + shape->flag_bytes);
    EXPECT(shape->partial_bytes % sizeof(uint64_t) == 0); /* flags follow */
    w4_cuda_shape most = w4_cuda_shape_make(&device, index, p, p->m);
    EXPECT(shape->partial_bytes == most.partial_bytes && shape->flag_bytes == most.flag_bytes);
    if (!shape->schedule.split_tiles) return;
    /* A place for each CTA, whichever of them have something to leave there. */
    size_t tile_bytes = (size_t)(config->public.tile_n / config->cluster * config->public.tile_m) * sizeof(float);
    size_t sharers = config->pingpong || config->sm80 ? 1 : (size_t)config->warps / 4;
    EXPECT(shape->partial_bytes >= shape->grid * tile_bytes);
    EXPECT(shape->flag_bytes >= shape->grid * sharers * sizeof(uint64_t));
}

/** Whether the config may run the problem; its reason must fit the answer. */
static bool is_feasible(const w4_problem *p, size_t index) {
    char reason[REASON_BYTES];
    int64_t m = p->m;
    memset(reason, 'x', sizeof reason);
    w4a16_status status = w4_cuda_config_check(&device, index, p, reason, sizeof reason);
    const char *end = memchr(reason, 0, sizeof reason);
    EXPECT(end != NULL);
    EXPECT(end < reason + sizeof reason - 1); /* or it may have been cut short */
    EXPECT(status == W4A16_OK || status == W4A16_ERROR_UNSUPPORTED);
    if (status == W4A16_OK)
        EXPECT(end == reason);
    else
        EXPECT(end > reason + 10);
    return status == W4A16_OK;
}

static void shapes_fit(void **state) {
    (void)state;
    uint64_t seed = 1;
    int feasible = 0, split = 0;
    for (int i = 0; i < 20000; i++) {
        w4_problem problem = draw_problem(&seed), *p = &problem;
        draw_device(&seed);
        for (size_t index = 0; index < w4_cuda_config_count; index++) {
            int64_t m = p->m;
            w4_cuda_shape shape = w4_cuda_shape_make(&device, index, p, m);
            check_schedule(p, index, m, &shape);
            check_workspace(p, index, m, &shape);
            if (is_feasible(p, index)) {
                feasible++;
                split += shape.schedule.split_tiles > 0;
                check_shared(p, index, m, &shape);
                EXPECT(w4_cuda_configs[index].stream_k == (shape.schedule.split_tiles > 0));
                double seconds = w4_cuda_config_cost(&device, index, p);
                EXPECT(isfinite(seconds) && seconds > 0);
            }
            m = 1 + (int64_t)oracle_below(&seed, (uint64_t)p->m); /* a call with fewer tokens */
            shape = w4_cuda_shape_make(&device, index, p, m);
            check_schedule(p, index, m, &shape);
            check_workspace(p, index, m, &shape);
        }
    }
    assert_true(feasible > 100000 && split > 1000);
}

/** Every config has code for every architecture, in an image for each variant that its kernel has. */
static void variants_have_images(void **state) {
    (void)state;
    static const char *const codes[] = {"sm_80", "sm_86", "sm_89", "sm_90", "compute_80"};
    for (size_t index = 0; index < w4_cuda_config_count; index++) {
        const w4_cuda_config *config = &w4_cuda_configs[index];
        for (size_t i = 0; i < (config->sm80 ? sizeof codes / sizeof *codes : 1); i++) {
            const char *code = config->sm80 ? codes[i] : "sm_90a";
            const w4_cuda_image *image = w4_cuda_images;
            while (image->name && (strcmp(image->name, config->kernel) != 0 || strcmp(image->code, code) != 0)) image++;
            assert_non_null(image->name);
            for (int variant = 0; variant < W4_CUDA_VARIANTS; variant++) {
                bool has = variant == W4_CUDA_GROUP_64       ? config->group_64
                           : variant / 2 == W4A16_ZERO_FLOAT ? config->float_zeros
                                                             : true;
                assert_int_equal(image->data[variant] != NULL, has);
                bool shared = variant && has && image->data[variant] == image->data[variant - 1];
                if (has && variant) assert_int_equal(shared, strncmp(code, "sm_90", 5) != 0);
            }
        }
    }
}

/** What most tests with shapes of their own ask for: groups of 128, symmetric, fp16. */
static w4_problem usual_problem(int64_t m, int64_t n, int64_t k) {
    return (w4_problem){.m = m,
                        .n = n,
                        .k = k,
                        .group_size = 128,
                        .zero_kind = W4A16_ZERO_SYMMETRIC,
                        .a_dtype = W4A16_FP16,
                        .c_dtype = W4A16_FP16,
                        .scale_dtype = W4A16_FP16};
}

/** Stream-K on 132 processors: a whole number of workers for each tile where that leaves few of them out, else all. */
static void runs_end_with_tiles(void **state) {
    (void)state;
    static const struct {
        int64_t m, n, k;
        int32_t tiles, workers;
    } expected[] = {{64, 4096, 14336, 32, 128},                             /* 4 for each tile */
                    {64, 4096, 512, 32, 32},                                /* 2 stages a tile: nothing to share */
                    {64, 5120, 5120, 40, 120},  {64, 3584, 18944, 28, 132}, /* 4 would leave 20 out */
                    {64, 10240, 8192, 80, 132}, {64, 8448, 8192, 66, 132},  {64, 28672, 4096, 224, 132}};
    size_t index = 0;
    while (index < w4_cuda_config_count &&
           strcmp(w4_cuda_configs[index].public.name, "sm90_n128m64k256_coop_streamk") != 0)
        index++;
    assert_true(index < w4_cuda_config_count);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        w4_problem problem = usual_problem(expected[i].m, expected[i].n, expected[i].k);
        w4_schedule schedule = w4_cuda_shape_make(&device, index, &problem, problem.m).schedule;
        assert_int_equal(schedule.tiles_m * schedule.tiles_n, expected[i].tiles);
        assert_int_equal(schedule.workers, expected[i].workers);
    }
}

/** On every GPU: of the decode configs for few tokens the fastest by the model takes at most half as many passes over k
 * as the narrowest one, where that takes eight or more; each pass costs a round of barriers. */
static void decode_passes_are_few(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{28672, 4096}, {57344, 8192}, {152064, 3584}};
    for (size_t gpu = 0; gpu < sizeof gpus / sizeof *gpus; gpu++) {
        use_gpu(gpu);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            for (int64_t m = 1; m <= 16; m *= 4) {
                w4_problem problem = usual_problem(m, shapes[i][0], shapes[i][1]);
                double least = 1;
                int64_t chosen = 0;
                for (size_t index = 0; index < w4_cuda_config_count; index++) {
                    const w4_cuda_config *config = &w4_cuda_configs[index];
                    if (!config->decode || !is_feasible(&problem, index)) continue;
                    double seconds = w4_cuda_config_cost(&device, index, &problem);
                    if (seconds < least) {
                        least = seconds;
                        chosen = config->public.tile_n;
                    }
                }
                if (chosen && chosen < 3 * 16 && shapes[i][0] / device.processors >= 8 * 16)
                    fail_msg("GPU %d, m %d, n %d: tile_n %d chosen", (int)gpu, (int)m, (int)shapes[i][0], (int)chosen);
            }
    }
}

/** A Hopper GPU like none that was measured has the costs of an H200, but the time of its own memory. */
static void hoppers_read_at_their_own_rate(void **state) {
    (void)state;
    w4_problem problem = usual_problem(1, 152064, 3584);
    double bytes = (double)w4_cuda_layout(&problem).bytes;
    w4_device h200 = device, other = device;
    h200.memory_mhz = 3200;
    other.memory_mhz = 2500;
    other.memory_rate = 3.35e12;
    for (size_t index = 0; index < w4_cuda_config_count; index++) {
        if (!is_feasible(&problem, index)) continue;
        assert_int_equal(w4_cuda_config_rough(&h200, index), w4_cuda_config_rough(&other, index));
        double here = w4_cuda_config_cost(&h200, index, &problem);
        double there = w4_cuda_config_cost(&other, index, &problem);
        assert_true(here > bytes / 4.8e12 && there > bytes / other.memory_rate && there >= here);
    }
}

static void one_workspace_serves_every_m(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{64, 1 << 17}, {1000, 4096}, {4096, 14336}, {12288, 1024}, {8448, 640}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t index = 0; index < w4_cuda_config_count; index++) {
            w4_problem problem = {.m = 9000,
                                  .n = shapes[i][0],
                                  .k = shapes[i][1],
                                  .group_size = 128,
                                  .a_dtype = W4A16_FP16,
                                  .c_dtype = W4A16_FP16,
                                  .scale_dtype = W4A16_FP16};
            w4_problem *p = &problem;
            for (int64_t m = 1; m <= p->m; m += m < 1100 ? 1 : 37) {
                w4_cuda_shape shape = w4_cuda_shape_make(&device, index, p, m);
                check_schedule(p, index, m, &shape);
                check_workspace(p, index, m, &shape);
            }
        }
}

static void promises_are_kept(void **state) {
    (void)state;
    uint64_t seed = 2;
    for (int i = 0; i < 20000; i++) {
        w4_problem problem = draw_problem(&seed), *p = &problem;
        draw_device(&seed);
        int64_t m = p->m;
        bool whole_blocks =
            p->group_size == p->k || p->group_size == 64 || p->group_size == 128 || p->group_size % 256 == 0;
        int any_group[2] = {0, 0}, in_place[2] = {0, 0}; /* of sm90, of sm80 */
        for (size_t index = 0; index < w4_cuda_config_count; index++) {
            const w4_cuda_config *config = &w4_cuda_configs[index];
            if (!is_feasible(p, index)) continue;
            EXPECT(config->sm80 || device.runs.sm90);
            (config->any_group ? any_group : in_place)[config->sm80]++;
            if (p->flags & W4A16_PLAN_BATCH_INVARIANT)
                EXPECT(!config->stream_k && !config->split && !config->decode && !(config->sm80 && device.runs.sm90));
            if (p->uneven_scales || !whole_blocks) EXPECT(config->any_group);
            if (p->zero_kind == W4A16_ZERO_FLOAT) EXPECT(config->float_zeros);
        }
        size_t index = w4_cuda_config_count;
        bool invariant = p->flags & W4A16_PLAN_BATCH_INVARIANT, sm80 = !(invariant && device.runs.sm90);
        bool takes_in_place = whole_blocks && !p->uneven_scales;
        EXPECT(any_group[0] + in_place[0] > 0 || !device.runs.sm90);
        EXPECT(in_place[0] > 0 || !takes_in_place || !device.runs.sm90);
        EXPECT(any_group[1] + in_place[1] > 0 || !sm80);
        EXPECT(in_place[1] > 0 || !takes_in_place || !sm80);
        if (invariant) EXPECT(!any_group[0] || !in_place[0]);
        if (invariant) EXPECT(!any_group[1] || !in_place[1]);
    }
}

/** Plans of every kind: each M is served by a config that can run it, in the workspace asked for; a batch-invariant
 * plan keeps to one order over k. */
static void plans_serve_their_range(void **state) {
    (void)state;
    uint64_t seed = 3;
    w4_backend backend = w4_cuda_backend;
    backend.prepare = NULL; /* there is no driver to load kernels with */
    const w4_plan_measured nothing = {NULL, NULL};
    int several = 0;
    for (int i = 0; i < 2000; i++) {
        w4_problem problem = draw_problem(&seed), *p = &problem;
        draw_device(&seed);
        w4_plan_choice choice;
        int64_t m_max = p->m, last = 0, m = m_max;
        size_t index = w4_cuda_config_count;
        EXPECT(w4_plan_choose(&backend, &device, &nothing, p, 1, m_max, NULL, &choice) == W4A16_OK);
        several += choice.count > 1;
        for (size_t j = 0; j < choice.count; j++) {
            const w4_plan_segment *segment = &choice.segments[j];
            index = segment->config;
            p->m = segment->m_last; /* as for a call */
            EXPECT(is_feasible(p, index));
            EXPECT(w4_cuda_workspace_size(&device, index, p) <= choice.workspace_bytes);
            /* Of the sm80 kernels only the decode ones were measured on 9.0. */
            EXPECT(w4_cuda_configs[index].decode || w4_cuda_configs[index].sm80 == !device.runs.sm90);
            if (p->flags & W4A16_PLAN_BATCH_INVARIANT)
                EXPECT(w4_cuda_configs[index].any_group == w4_cuda_configs[choice.segments[0].config].any_group);
            for (int n = 0; n < 3; n++) {
                m = last + 1 + (int64_t)oracle_below(&seed, (uint64_t)(segment->m_last - last));
                w4_cuda_shape shape = w4_cuda_shape_make(&device, index, p, m);
                check_schedule(p, index, m, &shape);
                check_workspace(p, index, m, &shape);
                check_shared(p, index, m, &shape);
                if (p->flags & W4A16_PLAN_BATCH_INVARIANT) EXPECT(!shape.schedule.split_tiles);
            }
            last = segment->m_last;
        }
        EXPECT(last == m_max);
    }
    assert_true(several > 100);
}

static void names_are_different(void **state) {
    (void)state;
    assert_true(w4_cuda_config_count > 0);
    for (size_t i = 0; i < w4_cuda_config_count; i++) {
        const w4_cuda_config *config = &w4_cuda_configs[i];
        for (size_t j = 0; j < i; j++) {
            const w4_cuda_config *other = &w4_cuda_configs[j];
            assert_string_not_equal(config->public.name, other->public.name);
            /* One kernel, one place to keep it. */
            assert_int_equal(config->slot == other->slot, strcmp(config->kernel, other->kernel) == 0);
        }
        assert_true(config->slot < w4_cuda_config_count); /* the size of the table */
    }
}

/** A C of more tiles than kernels count is refused, not miscounted. */
static void huge_problems_are_refused_or_fit(void **state) {
    (void)state;
    const int64_t most = INT64_C(1) << 30;
    const int64_t shapes[][3] = {{most, most, 32}, {most, most, most}, {most, 1, 64}, {1, most, 64}, {most, 128, 4096}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t index = 0; index < w4_cuda_config_count; index++) {
            w4_problem problem = {.m = shapes[i][0],
                                  .n = shapes[i][1],
                                  .k = shapes[i][2],
                                  .group_size = w4_minimum(128, shapes[i][2]),
                                  .a_dtype = W4A16_FP16,
                                  .c_dtype = W4A16_FP16,
                                  .scale_dtype = W4A16_FP16};
            w4_problem *p = &problem;
            int64_t m = p->m;
            const w4_config *tile = &w4_cuda_configs[index].public;
            bool countable = (double)p->m / tile->tile_m * (double)p->n / tile->tile_n < 0x1p29;
            bool feasible = is_feasible(p, index);
            EXPECT(countable || !feasible);
            const w4_cuda_config *config = &w4_cuda_configs[index];
            if (countable && !config->stream_k && !config->split && !config->decode) EXPECT(feasible);
            EXPECT(device.runs.sm90);
            if (!feasible) continue;
            w4_cuda_shape shape = w4_cuda_shape_make(&device, index, p, m);
            check_schedule(p, index, m, &shape);
            check_shared(p, index, m, &shape);
        }
}

/** Every compute capability: which code, and a text where there is none. */
static void architectures_are_found(void **state) {
    (void)state;
    static const struct {
        int32_t capability;
        const char *forced, *code;
        bool sm90, overlaps;
    } expected[] = {
        {80, NULL, "sm_80", false, false},         {86, NULL, "sm_86", false, false},
        {87, NULL, "sm_86", false, false},         {89, NULL, "sm_89", false, false},
        {90, NULL, "sm_90", true, true},           {90, "", "sm_90", true, true},
        {90, "sm80", "sm_90", false, true},        {90, "ptx", "compute_80", false, false},
        {89, "ptx", "compute_80", false, false},   {100, NULL, "compute_80", false, false},
        {103, "sm80", "compute_80", false, false}, {120, NULL, "compute_80", false, false},
        {121, NULL, "compute_80", false, false},
    };
    char reason[200];
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        w4_cuda_architecture found = {0};
        assert_true(
            w4_cuda_architecture_find(expected[i].capability, expected[i].forced, &found, reason, sizeof reason));
        assert_string_equal(found.code, expected[i].code);
        assert_int_equal(found.is_ptx, strncmp(found.code, "compute_", 8) == 0);
        assert_int_equal(found.sm90, expected[i].sm90);
        assert_int_equal(found.overlaps, expected[i].overlaps);
        assert_true(found.first <= expected[i].capability && found.last >= expected[i].capability);
        assert_true(found.flop_per_clock > 0);
    }
    w4_cuda_architecture found;
    for (int32_t capability = 0; capability < 200; capability++) /* every one from 8.0 on, and none before */
        assert_int_equal(w4_cuda_architecture_find(capability, NULL, &found, reason, sizeof reason), capability >= 80);
    assert_false(w4_cuda_architecture_find(75, "ptx", &found, reason, sizeof reason));
    assert_non_null(strstr(reason, "compute capability 7.5"));
    assert_non_null(strstr(reason, "8.0 (Ampere)"));
    assert_false(w4_cuda_architecture_find(90, "sm90", &found, reason, sizeof reason));
    assert_non_null(strstr(reason, "W4A16_CUDA_ARCH is 'sm90'"));
}

/** The sm80 kernels find groups by a multiplication, and lines by a bound; both against the plain division. */
static void groups_are_found(void **state) {
    (void)state;
    for (int64_t g = 32; g <= 4096; g += 32) {
        const int64_t k = INT64_C(1) << 30, ends[] = {k / 32, 1 << 14};
        w4_sm80_divider divider = w4_sm80_divider_make(k, g);
        for (size_t end = 0; end < 2; end++)
            for (int64_t span = ends[end] - 5000 > 0 ? ends[end] - 5000 : 0; span < ends[end]; span++)
                assert_int_equal(w4_sm80_group(divider, (int32_t)span), span * 32 / g);
        for (int32_t tile_k = 64; tile_k <= 256; tile_k *= 2) {
            int64_t most = 0;
            for (int64_t first = 0; first < 64 * g; first += tile_k)
                most = w4_maximum(most, (first + tile_k - 32) / g - first / g + 1);
            int32_t lines = w4_sm80_lines(k, g, tile_k);
            assert_true(lines >= most && lines <= most + 1 && lines <= tile_k / 32);
        }
    }
    w4_sm80_divider one = w4_sm80_divider_make(4096, 4096), large = w4_sm80_divider_make(1 << 30, (1 << 30) - 32);
    for (int32_t span = 0; span < 128; span++) assert_int_equal(w4_sm80_group(one, span), 0);
    assert_int_equal(w4_sm80_group(large, (1 << 25) - 2), 0);
    assert_int_equal(w4_sm80_group(large, (1 << 25) - 1), 1);
}

/** Every line of the shipped tables is of a config that there is and that can run the problem; the GPU alone gets it.
 */
static void shipped_tables_are_sound(void **state) {
    (void)state;
    static const struct {
        int32_t memory_mhz;
        const char *name;
    } measured[] = {{3200, "NVIDIA H200"}, {2600, "NVIDIA H100 80GB HBM3"}};
    assert_null(w4_cuda_table(&device)); /* a Hopper GPU whose memory is none of theirs */
    for (size_t gpu = 0; gpu < sizeof measured / sizeof *measured; gpu++) {
        device.memory_mhz = measured[gpu].memory_mhz;
        const w4_shipped_table *table = w4_cuda_table(&device);
        assert_non_null(table);
        assert_string_equal(table->name, measured[gpu].name);
        assert_true(table->count > 50);
        w4_tuned *tuned;
        assert_int_equal(w4_tuned_from_table(&w4_cuda_backend, &device, &tuned), W4A16_OK);
        assert_int_equal(w4_tuned_count(tuned), table->count); /* none is twice, none is gone */
        for (size_t i = 0; i < w4_tuned_count(tuned); i++) {
            const w4_tuned_point *point = &w4_tuned_points(tuned)[i];
            const w4_problem *p = &point->problem;
            size_t index = point->results[0].config;
            int64_t m = p->m;
            EXPECT(is_feasible(p, index));
            EXPECT(point->results[0].seconds > 0 && point->results[0].seconds < 1);
        }
        w4_tuned_release(tuned);
    }
    device.processors = 114;
    assert_null(w4_cuda_table(&device));
    use_gpu(1); /* the same GPU, limited to the sm80 kernels */
    device.memory_mhz = 3200;
    assert_null(w4_cuda_table(&device));
    use_gpu(0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(architectures_are_found),
        cmocka_unit_test(groups_are_found),
        cmocka_unit_test_setup(names_are_different, reset_device),
        cmocka_unit_test_setup(shipped_tables_are_sound, reset_device),
        cmocka_unit_test(variants_have_images),
        cmocka_unit_test_setup(shapes_fit, reset_device),
        cmocka_unit_test_setup(runs_end_with_tiles, reset_device),
        cmocka_unit_test(decode_passes_are_few),
        cmocka_unit_test_setup(hoppers_read_at_their_own_rate, reset_device),
        cmocka_unit_test_setup(one_workspace_serves_every_m, reset_device),
        cmocka_unit_test_setup(promises_are_kept, reset_device),
        cmocka_unit_test_setup(plans_serve_their_range, reset_device),
        cmocka_unit_test_setup(huge_problems_are_refused_or_fit, reset_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
