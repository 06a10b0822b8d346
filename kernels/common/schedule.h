/* SPDX-License-Identifier: Apache-2.0
 * Who computes what: the tiles of C, and which workers (CTAs, or clusters of them) do which stages of k of each. Shared
 * by the host, which sizes the workspace with it, and the kernel; plain C, so that its claims are tested on a CPU.
 *
 * The first `split_tiles` tiles are shared out stage by stage (stream-K): put end to end, their stages are cut into as
 * many equal runs as there are workers. The other tiles are done whole, one worker each. A tile that several runs share
 * is finished by the worker that has its first stage: it adds up the others' partial sums in the order of k, so that
 * the result has the same bits every time.
 *
 * Run r belongs to worker workers - 1 - r. A finisher so waits only for workers with a lower index, which the GPU has
 * started before it, and which do the awaited part before anything else: no order in which CTAs get onto the GPU can
 * make workers wait for one another in a circle. */
#ifndef W4_SCHEDULE_H
#define W4_SCHEDULE_H

#include "packed_layout.h"

typedef struct w4_schedule {
    int32_t workers;
    int32_t tiles_m, tiles_n; /* of a worker's tile: a cluster's tiles count as one */
    int32_t stages;           /* of each tile */
    int32_t split_tiles;      /* a run has at least one stage: split_tiles is 0 or split_tiles * stages >= workers */
    int32_t band;             /* tiles_m is cut into bands of this many, each done for every n before the next */
    int32_t split; /* 0, or 2: every tile's stages are shared out evenly to this many workers (w4_schedule_half) */
} w4_schedule;

/** Stages [begin, end) of one tile. */
typedef struct w4_work {
    int32_t tile, begin, end;
} w4_work;

/** A worker's place in its list of work. */
typedef struct w4_work_cursor {
    int32_t split, split_end; /* the stages that are left of its run, counted over all split tiles */
    int32_t whole;            /* the next whole tile */
} w4_work_cursor;

/** run * all / workers, where all = split_tiles * stages, without the product, which may need 64 bits: dividing those
 * is slow on a GPU. workers is less than 2^15. */
W4_SHARED_FUNCTION int32_t w4_schedule_run_begin(const w4_schedule *schedule, int32_t run) {
    int32_t all = schedule->split_tiles * schedule->stages, each = all / schedule->workers;
    return run * each + run * (all - each * schedule->workers) / schedule->workers;
}

W4_SHARED_FUNCTION int32_t w4_schedule_run(const w4_schedule *schedule, int32_t worker) {
    return schedule->workers - 1 - worker;
}

W4_SHARED_FUNCTION w4_work_cursor w4_schedule_begin(const w4_schedule *schedule, int32_t worker) {
    int32_t run = w4_schedule_run(schedule, worker);
    w4_work_cursor cursor = {w4_schedule_run_begin(schedule, run), w4_schedule_run_begin(schedule, run + 1),
                             schedule->split_tiles + worker};
    return cursor;
}

/** Take the next piece of work; 0 when there is none. */
W4_SHARED_FUNCTION int w4_schedule_next(const w4_schedule *schedule, w4_work_cursor *cursor, w4_work *work) {
    if (cursor->split < cursor->split_end) {
        int32_t left = cursor->split_end - cursor->split;
        work->tile = cursor->split / schedule->stages;
        work->begin = cursor->split - work->tile * schedule->stages;
        work->end = left < schedule->stages - work->begin ? work->begin + left : schedule->stages;
        cursor->split += work->end - work->begin;
        return 1;
    }
    if (cursor->whole >= schedule->tiles_m * schedule->tiles_n) return 0;
    work->tile = cursor->whole;
    work->begin = 0;
    work->end = schedule->stages;
    cursor->whole += schedule->workers;
    return 1;
}

/** With `split`: the only piece of work of a worker, half of a tile. */
W4_SHARED_FUNCTION w4_work w4_schedule_half(const w4_schedule *schedule, int32_t worker) {
    int32_t half = schedule->stages / 2;
    w4_work work = {worker / 2, worker % 2 ? half : 0, worker % 2 ? schedule->stages : half};
    return work;
}

/** How many runs after `run`, which has the first stage of `tile`, have a part of it. */
W4_SHARED_FUNCTION int32_t w4_schedule_helpers(const w4_schedule *schedule, int32_t run, int32_t tile) {
    int32_t end = (tile + 1) * schedule->stages, helpers = 0;
    while (w4_schedule_run_begin(schedule, run + 1 + helpers) < end) helpers++;
    return helpers;
}

/** Which tile of C: its index along m and along n. */
W4_SHARED_FUNCTION void w4_schedule_place(const w4_schedule *schedule, int32_t tile, int32_t *m, int32_t *n) {
    int32_t per_band = schedule->band * schedule->tiles_n, band = tile / per_band, inside = tile - band * per_band;
    int32_t left = schedule->tiles_m - band * schedule->band, width = left < schedule->band ? left : schedule->band;
    *n = inside / width;
    *m = band * schedule->band + inside - *n * width;
}

#endif
