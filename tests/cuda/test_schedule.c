/* SPDX-License-Identifier: Apache-2.0
 * Who computes what: every stage of every tile once, and what a tile's finisher and its helpers rely on. */
#include "schedule.h"

#include "api/number_oracle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/** What the workers have done of a tile, and who. */
typedef struct tile {
    int32_t done;             /* stages, from the first on */
    int32_t finisher;         /* the worker that did the first stage */
    int32_t helpers, claimed; /* workers that did other parts, and how many w4_schedule_helpers expects */
} tile;

static void fail_schedule(const w4_schedule *s, const char *what, int64_t at) {
    fail_msg("%d workers, %d x %d tiles of %d stages, %d of them split, bands of %d: %s (at %lld)", (int)s->workers,
             (int)s->tiles_m, (int)s->tiles_n, (int)s->stages, (int)s->split_tiles, (int)s->band, what, (long long)at);
}

#define EXPECT(schedule, condition, at)                                                                                \
    do {                                                                                                               \
        if (!(condition)) fail_schedule(schedule, "not so: " #condition, at);                                          \
    } while (0)

/** Walk a worker's list. `split_stages` receives the length of its run. */
static void check_worker(const w4_schedule *s, int32_t worker, tile *tiles, int64_t *split_stages) {
    int32_t count = s->tiles_m * s->tiles_n;
    w4_work_cursor cursor = w4_schedule_begin(s, worker);
    w4_work work = {-1, -1, -1};
    int pieces = 0, whole = 0;
    for (; w4_schedule_next(s, &cursor, &work); pieces++) {
        EXPECT(s, work.tile >= 0 && work.tile < count, work.tile);
        tile *t = &tiles[work.tile];
        EXPECT(s, work.begin >= 0 && work.begin < work.end && work.end <= s->stages, work.begin);
        /* Runs are walked in the order of k: each part begins where the one before it ends, or a stage is done twice
         * or never. */
        EXPECT(s, work.begin == t->done, work.tile);
        t->done = work.end;
        if (work.tile < s->split_tiles) {
            EXPECT(s, !whole, work.tile); /* others may be waiting for the split tiles */
            *split_stages += work.end - work.begin;
        } else {
            EXPECT(s, work.end - work.begin == s->stages, work.tile);
            whole = 1;
        }
        if (work.begin > 0) {
            EXPECT(s, pieces == 0, worker); /* so that one place for partial sums is enough, and it is done first */
            t->helpers++;
            EXPECT(s, worker == t->finisher - t->helpers, worker);
        } else {
            t->finisher = worker;
            if (work.tile < s->split_tiles) t->claimed = w4_schedule_helpers(s, w4_schedule_run(s, worker), work.tile);
        }
    }
    w4_work after = work;
    EXPECT(s, !w4_schedule_next(s, &cursor, &work), worker);
    EXPECT(s, work.tile == after.tile && work.begin == after.begin && work.end == after.end, worker);
}

static void check_work(const w4_schedule *s) {
    int32_t count = s->tiles_m * s->tiles_n;
    tile *tiles = calloc((size_t)count, sizeof *tiles);
    assert_non_null(tiles);
    int64_t shortest = INT64_MAX, longest = 0;
    for (int32_t run = 0; run < s->workers; run++) {
        int64_t length = 0;
        int32_t worker = s->workers - 1 - run;
        EXPECT(s, w4_schedule_run(s, worker) == run, run);
        check_worker(s, worker, tiles, &length);
        if (length < shortest) shortest = length;
        if (length > longest) longest = length;
    }
    EXPECT(s, longest - shortest <= 1, longest);
    EXPECT(s, !s->split_tiles || shortest > 0, shortest);
    for (int32_t i = 0; i < count; i++) {
        EXPECT(s, tiles[i].done == s->stages, i);
        EXPECT(s, tiles[i].claimed == tiles[i].helpers, i);
        EXPECT(s, tiles[i].finisher - tiles[i].helpers >= 0, i);
    }
    free(tiles);
}

static void check_places(const w4_schedule *s) {
    int32_t count = s->tiles_m * s->tiles_n, last_band = 0, last_n = 0;
    char *seen = calloc((size_t)count, 1);
    assert_non_null(seen);
    for (int32_t i = 0; i < count; i++) {
        int32_t m = -1, n = -1;
        w4_schedule_place(s, i, &m, &n);
        EXPECT(s, m >= 0 && m < s->tiles_m && n >= 0 && n < s->tiles_n, i);
        EXPECT(s, !seen[m * s->tiles_n + n], i);
        seen[m * s->tiles_n + n] = 1;
        /* A band is done for every n, in order, before the next begins. */
        EXPECT(s, m / s->band == last_band || (m / s->band == last_band + 1 && n == 0), i);
        if (m / s->band == last_band) EXPECT(s, n >= last_n, i);
        last_band = m / s->band;
        last_n = n;
    }
    free(seen); /* count different places: all of them */
}

static int is_possible(const w4_schedule *s) {
    return s->split_tiles == 0 || (int64_t)s->split_tiles * s->stages >= s->workers;
}

static void small_schedules(void **state) {
    (void)state;
    int64_t checked = 0;
    w4_schedule s = {.workers = 1};
    for (s.workers = 1; s.workers <= 9; s.workers++)
        for (s.tiles_m = 1; s.tiles_m <= 4; s.tiles_m++)
            for (s.tiles_n = 1; s.tiles_n <= 4; s.tiles_n++)
                for (s.stages = 1; s.stages <= 7; s.stages++)
                    for (s.split_tiles = 0; s.split_tiles <= s.tiles_m * s.tiles_n; s.split_tiles++) {
                        s.band = 1 + (int32_t)(checked % 5);
                        if (!is_possible(&s)) continue;
                        check_work(&s);
                        check_places(&s);
                        checked++;
                    }
    assert_true(checked > 5000);
}

static void extreme_schedules(void **state) {
    (void)state;
    static const w4_schedule schedules[] = {
        {.workers = 1, .tiles_m = 1, .tiles_n = 1, .stages = 1, .split_tiles = 1, .band = 1},
        {.workers = 264, .tiles_m = 1, .tiles_n = 1, .stages = 264, .split_tiles = 1, .band = 64}, /* a stage each */
        {.workers = 264, .tiles_m = 1, .tiles_n = 1, .stages = 265, .split_tiles = 1, .band = 64},
        {.workers = 264, .tiles_m = 1, .tiles_n = 1, .stages = 1 << 24, .split_tiles = 1, .band = 64},
        {.workers = 264, .tiles_m = 1, .tiles_n = 264, .stages = 1, .split_tiles = 264, .band = 1},
        {.workers = 132, .tiles_m = 1, .tiles_n = 131, .stages = 2, .split_tiles = 131, .band = 1},
        {.workers = 132, .tiles_m = 263, .tiles_n = 1, .stages = 7, .split_tiles = 263, .band = 1024},
        {.workers = 131, .tiles_m = 7, .tiles_n = 311, .stages = 1, .split_tiles = 0, .band = 2},
        {.workers = 66, .tiles_m = 1000, .tiles_n = 1, .stages = 3, .split_tiles = 132, .band = 999},
        {.workers = 1, .tiles_m = 3, .tiles_n = 500, .stages = 113, .split_tiles = 1500, .band = 1},
        /* Stages counted over all split tiles just fit in 32 bits. */
        {.workers = 264, .tiles_m = 1, .tiles_n = 511, .stages = INT32_MAX / 511, .split_tiles = 511, .band = 1},
        {.workers = 131, .tiles_m = 1, .tiles_n = 1, .stages = INT32_MAX, .split_tiles = 1, .band = 1},
    };
    for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++) {
        assert_true(is_possible(&schedules[i]));
        check_work(&schedules[i]);
        check_places(&schedules[i]);
    }
}

/** 1..bound, small numbers as likely as large ones. */
static int32_t draw(uint64_t *seed, int32_t bound) {
    int32_t below = 1 + (int32_t)oracle_below(seed, (uint64_t)bound);
    return 1 + (int32_t)oracle_below(seed, (uint64_t)below);
}

static void random_schedules(void **state) {
    (void)state;
    uint64_t seed = 20;
    int checked = 0;
    while (checked < 20000) {
        w4_schedule s = {
            .workers = draw(&seed, 600),
            .tiles_m = draw(&seed, 60),
            .tiles_n = draw(&seed, 60),
            .stages = draw(&seed, 500),
            .band = draw(&seed, 70),
        };
        s.split_tiles = (int32_t)oracle_below(&seed, (uint64_t)(s.tiles_m * s.tiles_n) + 1);
        if (!is_possible(&s)) continue;
        check_work(&s);
        check_places(&s);
        checked++;
    }
}

/** Tiles whose stages two workers next to one another share out. */
static void shared_tiles(void **state) {
    (void)state;
    w4_schedule s = {.band = 3, .split = 2};
    for (s.tiles_m = 1; s.tiles_m <= 3; s.tiles_m++)
        for (s.tiles_n = 1; s.tiles_n <= 5; s.tiles_n++)
            for (s.stages = 4; s.stages <= 10; s.stages++) {
                s.workers = s.tiles_m * s.tiles_n * 2;
                for (int32_t worker = 0; worker < s.workers; worker++) {
                    w4_work work = w4_schedule_half(&s, worker);
                    EXPECT(&s, work.tile == worker / 2, worker);
                    EXPECT(&s, work.begin == (worker % 2 ? s.stages / 2 : 0), worker);
                    EXPECT(&s, work.end == (worker % 2 ? s.stages : s.stages / 2), worker);
                }
                check_places(&s);
            }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_schedules),
        cmocka_unit_test(extreme_schedules),
        cmocka_unit_test(random_schedules),
        cmocka_unit_test(shared_tiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
