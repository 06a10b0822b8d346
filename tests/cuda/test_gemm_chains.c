/* SPDX-License-Identifier: Apache-2.0
 * Calls that follow each other without a wait, through the public API: each reads what the one before wrote, on two
 * streams at once, in graphs, from two threads with a context each, and between copies and fills.
 *
 * The weights are moves: row n holds one code a step beside its zero point under a scale of 1, and zeros else, so that
 * C[m, n] = +-A[m, from[n]], and after thousands of calls the result is still known bit by bit. A call that starts
 * before the one before has ended, or a workspace that one call leaves and the next trips over, shows.
 *
 * Relays are chains of random weights, whose results are held to those of the same calls waited for one by one. */
#include "cuda_case.h"

#include <math.h>
#include <pthread.h>

enum { MAX_SIZE = 4096, MOVES = 3, MAX_PLANS = 2 * MOVES * (TEST_MAX_CONFIGS + 1), MAX_CALLS = 5000 };

/** A square weight that moves and negates elements. */
typedef struct move {
    w4a16_canonical form; /* without arrays once the weight is made */
    w4a16_weight *weight;
    int32_t from[MAX_SIZE];
    uint16_t flip[MAX_SIZE]; /* 0x8000: negated */
} move;

static void shuffle(uint64_t *seed, int32_t *order, int64_t count) {
    for (int64_t i = 0; i < count; i++) order[i] = (int32_t)i;
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t other = (int64_t)oracle_below(seed, (uint64_t)i + 1);
        int32_t kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
}

static void move_make(move *made, uint64_t *seed, w4a16_context *context, int64_t size, int64_t group_size,
                      w4a16_zero_kind zero_kind, int with_order) {
    int64_t group_of = group_size == -1 ? size : group_size, groups = (size + group_of - 1) / group_of;
    int64_t row_bytes = (size + 1) / 2;
    uint8_t *codes = test_allocate((size_t)(size * row_bytes));
    uint8_t *zeros = test_allocate((size_t)(size * groups));
    float *scales = test_allocate((size_t)(size * groups) * sizeof *scales);
    int32_t *order = test_allocate((size_t)size * sizeof *order), *place = test_allocate((size_t)size * sizeof *place);
    shuffle(seed, made->from, size);
    shuffle(seed, order, size);
    for (int64_t i = 0; i < size; i++) place[with_order ? order[i] : i] = (int32_t)i;
    for (int64_t n = 0; n < size; n++) {
        int64_t column = place[made->from[n]];
        for (int64_t group = 0; group < groups; group++) {
            int64_t i = n * groups + group, first = group * group_of;
            zeros[i] = zero_kind ? (uint8_t)(1 + oracle_below(seed, 14)) : 8;
            scales[i] = column / group_of == group ? 1 : 1 / (float)(1 << oracle_below(seed, 4));
            int64_t end = first + group_of < size ? first + group_of : size;
            memset(codes + n * row_bytes + first / 2, zeros[i] * 17, (size_t)((end + 1) / 2 - first / 2));
        }
        made->flip[n] = oracle_below(seed, 2) ? 0x8000 : 0;
        uint8_t *code = codes + n * row_bytes + column / 2;
        int step = made->flip[n] ? -1 : 1; /* codes are 0..15, zero points 1..14 */
        *code = (uint8_t)(*code + (column % 2 ? 16 * step : step));
    }
    w4a16_canonical_init(&made->form);
    made->form.n = made->form.k = size;
    made->form.group_size = group_size;
    made->form.zero_kind = zero_kind;
    made->form.scale_dtype = W4A16_FP32;
    w4a16_canonical full = made->form;
    full.codes = codes;
    full.scales = scales;
    full.zeros = zero_kind ? zeros : NULL;
    full.k_order = with_order ? order : NULL;
    CHECK(w4a16_weight_create(context, &full, &made->weight));
    free(codes);
    free(zeros);
    free(scales);
    free(order);
    free(place);
}

/** The three kinds: symmetric; with zero points; and one that needs the columns of A in another order. */
static void moves_make(move moves[MOVES], uint64_t *seed, w4a16_context *context, int64_t size) {
    move_make(&moves[0], seed, context, size, 128, W4A16_ZERO_SYMMETRIC, 0);
    move_make(&moves[1], seed, context, size, 32, W4A16_ZERO_INTEGER, 0);
    move_make(&moves[2], seed, context, size, -1, W4A16_ZERO_INTEGER, 1);
}

static void moves_free(move moves[MOVES]) {
    for (int i = 0; i < MOVES; i++) w4a16_weight_destroy(moves[i].weight);
}

/** Plans of moves, and what they share. */
typedef struct plan_set {
    int64_t size, m;
    w4a16_dtype dtype;
    int count;
    size_t workspace_bytes; /* of the one that needs most */
    struct {
        w4a16_plan *plan;
        const move *what;
        const char *config;
    } plans[MAX_PLANS];
} plan_set;

/** Not cmocka's assertions: threads call it. */
static w4a16_status add_plan(plan_set *set, const move *what, const char *config) {
    w4a16_plan_options options;
    w4a16_plan_info info = {.struct_size = sizeof info};
    w4a16_plan_options_init(&options);
    options.m_max = set->m;
    options.a_dtype = set->dtype;
    options.config = config;
    w4a16_plan *plan = NULL;
    w4a16_status status = w4a16_plan_create(what->weight, &options, &plan);
    if (!status) status = w4a16_plan_query(plan, &info);
    if (status) {
        w4a16_plan_destroy(plan);
        return status;
    }
    set->plans[set->count].plan = plan;
    set->plans[set->count].what = what;
    set->plans[set->count++].config = info.config;
    if (info.workspace_bytes > set->workspace_bytes) set->workspace_bytes = info.workspace_bytes;
    return W4A16_OK;
}

/** Each move with each config. */
static void plan_set_make(plan_set *set, const move *moves, int64_t m, w4a16_dtype dtype) {
    *set = (plan_set){.size = moves[0].form.n, .m = m, .dtype = dtype};
    for (int i = 0; i < MOVES; i++) {
        const char *names[TEST_MAX_CONFIGS + 1];
        size_t count = cuda_case_configs(&moves[i].form, m, dtype, dtype, 0, names);
        names[count++] = NULL;
        for (size_t j = 0; j < count; j++) CHECK(add_plan(set, &moves[i], names[j]));
    }
}

static void plan_set_free(plan_set *set) {
    for (int i = 0; i < set->count; i++) w4a16_plan_destroy(set->plans[i].plan);
}

/** A row of calls on one stream, from one of two arrays to the other and back. */
typedef struct chain {
    const plan_set *set;
    int64_t stride;
    uint16_t *begin, *got; /* [m, size] on the host */
    uint16_t *arrays[2];
    int at; /* which one holds the result so far */
    void *workspace, *stream;
    int32_t from[MAX_SIZE]; /* what the calls followed so far make of `begin` */
    uint16_t flip[MAX_SIZE];
    int calls[MAX_CALLS]; /* plans started that are still to be followed */
    int call_count;
} chain;

static void chain_make(chain *made, uint64_t *seed, const plan_set *set, int64_t stride) {
    size_t count = (size_t)(set->m * stride);
    *made = (chain){.set = set, .stride = stride, .stream = device_stream_create()};
    made->begin = test_allocate(count * 2);
    made->got = test_allocate(count * 2);
    /* Whole numbers, so that no order of adding rounds; none is 0, whose sign would be free. */
    for (size_t i = 0; i < count; i++)
        made->begin[i] = oracle_encode(test_format(set->dtype),
                                       (oracle_below(seed, 2) ? 1.0 : -1.0) * (double)(1 + oracle_below(seed, 127)));
    for (int64_t i = 0; i < set->size; i++) made->from[i] = (int32_t)i;
    made->arrays[0] = device_copy_in(made->begin, count * 2, 0);
    made->arrays[1] = device_allocate(count * 2);
    device_fill(made->arrays[1], 0xff, count * 2);
    made->workspace = device_allocate(set->workspace_bytes);
    device_fill(made->workspace, 0xff, set->workspace_bytes);
}

/** Follow on the host what plan `index` does to the result: late, for it takes longer than a call. */
static void chain_follow(chain *c, int index) {
    const move *what = c->set->plans[index].what;
    int32_t from[MAX_SIZE];
    uint16_t flip[MAX_SIZE];
    for (int64_t n = 0; n < c->set->size; n++) {
        from[n] = c->from[what->from[n]];
        flip[n] = c->flip[what->from[n]] ^ what->flip[n];
    }
    memcpy(c->from, from, (size_t)c->set->size * sizeof *from);
    memcpy(c->flip, flip, (size_t)c->set->size * sizeof *flip);
}

/** Start plan `index` on the result so far; not waited for. */
static w4a16_status chain_start(chain *c, int index) {
    w4a16_status status = w4a16_gemm(c->set->plans[index].plan, c->arrays[c->at], c->stride, c->arrays[1 - c->at],
                                     c->stride, c->set->m, c->workspace, c->set->workspace_bytes, c->stream);
    c->at = 1 - c->at;
    return status;
}

/** The same, to be followed by chain_check. */
static w4a16_status chain_step(chain *c, int index) {
    if (c->call_count == MAX_CALLS) abort();
    c->calls[c->call_count++] = index;
    return chain_start(c, index);
}

static void chain_check(chain *c, const char *what) {
    int64_t size = c->set->size, m = c->set->m;
    size_t wrong = 0;
    device_synchronize(c->stream);
    for (int i = 0; i < c->call_count; i++) chain_follow(c, c->calls[i]);
    c->call_count = 0;
    device_copy_out(c->got, c->arrays[c->at], (size_t)(m * c->stride) * 2);
    int64_t row = 0, column = 0;
    for (int64_t i = m * size - 1; i >= 0; i--)
        if (c->got[i / size * c->stride + i % size] !=
            (c->begin[i / size * c->stride + c->from[i % size]] ^ c->flip[i % size])) {
            wrong++;
            row = i / size;
            column = i % size;
        }
    if (!wrong) return;
    const double *values = cuda_case_values(c->set->dtype);
    fail_msg("%s, m %d, size %d, %s, stride %d: C[%d, %d] is %g, not %g; so are %zu of %zu", what, (int)m, (int)size,
             w4a16_dtype_name(c->set->dtype), (int)c->stride, (int)row, (int)column,
             values[c->got[row * c->stride + column]],
             values[c->begin[row * c->stride + c->from[column]] ^ c->flip[column]], wrong, (size_t)(m * size));
}

static void chain_free(chain *c) {
    free(c->begin);
    free(c->got);
    for (int i = 0; i < 2; i++) device_free(c->arrays[i], 0);
    device_free(c->workspace, 0);
    device_stream_destroy(c->stream);
}

/** The next plan of a mix: mostly the one before once more. */
static int next_plan(uint64_t *seed, const plan_set *set, int before) {
    return oracle_below(seed, 4) ? before : (int)oracle_below(seed, (uint64_t)set->count);
}

/** One config at a time, so that a failure names it, on two streams. */
static void chain_each_config(chain chains[2], const plan_set *set) {
    for (int index = 0; index < set->count; index++) {
        char what[160];
        snprintf(what, sizeof what, "calls of %s alone", set->plans[index].config);
        device_watch(what);
        for (int i = 0; i < (simulated ? 4 : 64); i++)
            for (int j = 0; j < 2; j++) CHECK(chain_step(&chains[j], index));
        for (int j = 0; j < 2; j++) chain_check(&chains[j], what);
    }
}

static void chain_mix(chain chains[2], const plan_set *set, uint64_t *seed) {
    int index[2] = {0, 0};
    device_watch("a mix of configs on two streams");
    for (int i = 0; i < (simulated ? 40 : 2 * MAX_CALLS); i++) {
        index[i % 2] = next_plan(seed, set, index[i % 2]);
        CHECK(chain_step(&chains[i % 2], index[i % 2]));
    }
    for (int j = 0; j < 2; j++) chain_check(&chains[j], "a mix of configs on two streams");
}

/** A graph on each stream, replayed in turn; each replay begins where the one before ended. */
static void chain_graphs(chain chains[2], const plan_set *set, uint64_t *seed) {
    enum { CALLS = 40 };
    const int replays = simulated ? 2 : 25;
    int calls[2][CALLS];
    void *graphs[2];
    device_watch("graphs of a mix of configs");
    for (int j = 0; j < 2; j++) {
        device_capture_begin(chains[j].stream);
        for (int i = 0; i < CALLS; i++) {
            calls[j][i] = next_plan(seed, set, i ? calls[j][i - 1] : 0);
            CHECK(chain_start(&chains[j], calls[j][i]));
        }
        graphs[j] = device_capture_end(chains[j].stream);
    }
    for (int i = 0; i < 2 * replays; i++) device_graph_launch(graphs[i % 2], chains[i % 2].stream);
    for (int j = 0; j < 2; j++) {
        for (int i = 0; i < replays * CALLS; i++) chain_follow(&chains[j], calls[j][i % CALLS]);
        chain_check(&chains[j], "graphs of a mix of configs");
        device_graph_destroy(graphs[j]);
    }
}

static void each_call_reads_what_the_last_one_wrote(void **state) {
    (void)state;
    static const int64_t m_values[] = {1, 16, 33, 100}, sizes[] = {1024, 4096}, small[] = {136};
    static move moves[MOVES];
    static plan_set set;
    static chain chains[2];
    uint64_t seed = 91;
    for (size_t i = 0; i < (simulated ? COUNT(small) : COUNT(sizes)); i++) {
        device_watch(NULL);
        moves_make(moves, &seed, cuda, simulated ? small[i] : sizes[i]);
        for (size_t j = 0; j < (simulated ? 2 : COUNT(m_values)); j++) {
            plan_set_make(&set, moves, m_values[j], halves[(i + j) % 2]);
            for (int k = 0; k < 2; k++) /* in one of eight cases rows that a tensor map cannot describe */
                chain_make(&chains[k], &seed, &set, set.size + (j == 1 && k ? 3 : 8 * k));
            chain_each_config(chains, &set);
            chain_mix(chains, &set, &seed);
            chain_graphs(chains, &set, &seed);
            for (int k = 0; k < 2; k++) chain_free(&chains[k]);
            plan_set_free(&set);
        }
        moves_free(moves);
    }
}

/** A thread that makes its plans on both contexts' weights and runs them on its own stream. */
typedef struct worker {
    const move (*moves)[MOVES];             /* [2], one of each context */
    const char *(*names)[TEST_MAX_CONFIGS]; /* [MOVES] of each kind of move */
    size_t name_counts[MOVES];
    uint64_t seed;
    plan_set set;
    chain links;
    int round_trips;
    char complaint[512];
} worker;

static void *run_worker(void *argument) {
    worker *self = argument;
    chain *links = &self->links;
    const plan_set *set = &self->set;
    int index = 0;
    for (int i = 0; i < self->round_trips; i++) {
        index = next_plan(&self->seed, set, index);
        if (chain_step(links, index)) break;
        /* The other context's plans are the other half. */
        index = (index + set->count / 2) % set->count;
        if (chain_step(links, index)) break;
        if (i == self->round_trips - 1) return NULL;
    }
    snprintf(self->complaint, sizeof self->complaint, "%s: %.400s", set->plans[index].config, w4a16_last_error());
    return NULL;
}

static void *make_plans_in_thread(void *argument) {
    worker *self = argument;
    for (int context = 0; context < 2; context++)
        for (size_t kind = 0; kind < MOVES; kind++)
            for (size_t i = 0; i < self->name_counts[kind]; i++)
                if (add_plan(&self->set, &self->moves[context][kind], self->names[kind][i])) {
                    snprintf(self->complaint, sizeof self->complaint, "%s: %.400s", self->names[kind][i],
                             w4a16_last_error());
                    return NULL;
                }
    return NULL;
}

static void run_threads(worker workers[2], void *(*routine)(void *)) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, routine, &workers[i]), 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 2; i++)
        if (workers[i].complaint[0]) fail_msg("thread %d: %s", i, workers[i].complaint);
}

static void two_contexts_serve_two_threads(void **state) {
    (void)state;
    static move moves[2][MOVES];
    static worker workers[2];
    uint64_t seed = 92;
    int64_t size = simulated ? 136 : 1024, m = 33;
    w4a16_context *contexts[2];
    static const char *names[MOVES][TEST_MAX_CONFIGS];
    device_watch("two contexts");
    for (int i = 0; i < 2; i++) {
        contexts[i] = cuda_case_context("cuda:0");
        moves_make(moves[i], &seed, contexts[i], size);
    }
    size_t counts[MOVES];
    for (int kind = 0; kind < MOVES; kind++)
        counts[kind] = cuda_case_configs(&moves[0][kind].form, m, W4A16_FP16, W4A16_FP16, 0, names[kind]);
    for (int i = 0; i < 2; i++) {
        workers[i] = (worker){.moves = (const move(*)[MOVES])moves,
                              .names = names,
                              .seed = seed + (uint64_t)i,
                              .round_trips = simulated ? 10 : 1000};
        memcpy(workers[i].name_counts, counts, sizeof counts);
        workers[i].set = (plan_set){.size = size, .m = m, .dtype = W4A16_FP16};
    }
    run_threads(workers, make_plans_in_thread); /* both load kernels into both contexts */
    for (int i = 0; i < 2; i++) chain_make(&workers[i].links, &seed, &workers[i].set, size);
    run_threads(workers, run_worker);
    for (int i = 0; i < 2; i++) {
        chain_check(&workers[i].links, "two contexts");
        chain_free(&workers[i].links);
        plan_set_free(&workers[i].set);
        moves_free(moves[i]);
        w4a16_context_destroy(contexts[i]);
    }
}

/** A copied into place just before each call, C copied away just after, then all of it and the workspace overwritten,
 * in the stream's order alone. */
static void copies_and_fills_keep_their_place(void **state) {
    (void)state;
    enum { SOURCES = 4 };
    static const int64_t m_values[] = {1, 33, 200};
    static move moves[MOVES];
    static plan_set set;
    static chain links;
    uint64_t seed = 93;
    device_watch(NULL);
    moves_make(moves, &seed, cuda, simulated ? 136 : 1024);
    for (size_t j = 0; j < (simulated ? 2 : COUNT(m_values)); j++) {
        plan_set_make(&set, moves, m_values[j], halves[j % 2]);
        size_t count = (size_t)(set.m * set.size);
        chain_make(&links, &seed, &set, set.size);
        uint16_t *sources[SOURCES], *results[SOURCES], *begin = links.begin;
        for (int i = 0; i < SOURCES; i++) {
            /* The numbers of `begin`, each source with them in another order. */
            uint16_t *turned = test_allocate(count * 2);
            for (size_t k = 0; k < count; k++) turned[k] = begin[(k * 7 + (size_t)i * 13) % count];
            sources[i] = device_copy_in(turned, count * 2, 0);
            results[i] = device_allocate(count * 2);
            free(turned);
        }
        for (int index = 0; index < set.count; index++) {
            char what[160];
            snprintf(what, sizeof what, "%s between copies and fills", set.plans[index].config);
            device_watch(what);
            for (int i = 0; i < SOURCES; i++) {
                device_queue_copy(links.arrays[0], sources[i], count * 2, links.stream);
                links.at = 0;
                CHECK(chain_start(&links, index));
                device_queue_copy(results[i], links.arrays[1], count * 2, links.stream);
                device_queue_fill(links.arrays[0], 0xff, count * 2, links.stream);
                device_queue_fill(links.arrays[1], 0xff, count * 2, links.stream);
                device_queue_fill(links.workspace, i % 2 ? 0xff : 0, set.workspace_bytes, links.stream);
            }
            device_synchronize(links.stream);
            const move *moved = set.plans[index].what;
            for (int i = 0; i < SOURCES; i++) {
                device_copy_out(links.got, results[i], count * 2);
                for (size_t k = 0; k < count; k++) {
                    size_t column = k % (size_t)set.size, at = k - column + (size_t)moved->from[column];
                    uint16_t right = begin[(at * 7 + (size_t)i * 13) % count] ^ moved->flip[column];
                    if (links.got[k] != right)
                        fail_msg("%s, m %d: C[%d, %d] of call %d is 0x%04x, not 0x%04x", what, (int)set.m,
                                 (int)(k / (size_t)set.size), (int)column, i, links.got[k], right);
                }
            }
        }
        for (int i = 0; i < SOURCES; i++) {
            device_free(sources[i], 0);
            device_free(results[i], 0);
        }
        chain_free(&links);
        plan_set_free(&set);
    }
    moves_free(moves);
}

/* ---- Relays -------------------------------------------------------------------------------------------------- */

enum {
    RUNNERS = 4,    /* weights of a relay, which its calls take in random order */
    MAX_PICKS = 24, /* configs that a relay runs */
    RELAY_CALLS = 1000,
    LOOK_EVERY = 16 /* calls between two looks at the result */
};

/** Each call's output is the next one's input: x = alpha * W * x + bias, where alpha * W about keeps 0.9 of a norm and
 * the bias makes up for the rest. So values neither vanish nor overflow, and a wrong one is still seen at the next
 * look, when a fifth of it is left. */
typedef struct relay {
    int64_t size, m;
    w4a16_dtype dtype;
    w4a16_weight *weights[RUNNERS];
    void *biases[RUNNERS];
    float alphas[RUNNERS];
    int pick_count;
    const char *picks[MAX_PICKS];             /* NULL: the library's choice */
    w4a16_plan *plans[MAX_PICKS][RUNNERS][2]; /* the last: with overlap, without */
    uint16_t *begin, *arrays[2], *looks;      /* on the device */
    void *workspace, *stream;
    size_t bytes, workspace_bytes, look_bytes; /* of the result, of all looks at it */
    uint16_t *expected, *got;                  /* looks, on the host */
} relay;

/** How much larger a weight of equal sides makes what it is multiplied with: random vectors by the root mean square of
 * its numbers, and vectors of one value by their mean. */
static double growth(const test_weight *weight) {
    const w4a16_canonical *c = &weight->canonical;
    const uint16_t *scales = c->scales;
    double squares = 0, sum = 0, count = (double)(c->n * c->k);
    for (int64_t n = 0; n < c->n; n++)
        for (int64_t k = 0; k < c->k; k++) {
            int64_t group = n * weight->groups + k / c->group_size;
            double zero = c->zero_kind ? ((const uint8_t *)c->zeros)[group] : 8;
            double value = ((c->codes[n * ((c->k + 1) / 2) + k / 2] >> (k % 2 * 4) & 15) - zero) *
                           cuda_case_values(c->scale_dtype)[scales[group]];
            squares += value * value;
            sum += value;
        }
    return fmax(sqrt((double)c->k * squares / count), (double)c->k * fabs(sum / count));
}

/** 16-bit numbers of about this size, on the device. */
static void *random_on_device(uint64_t *seed, w4a16_dtype dtype, size_t count, double size) {
    uint16_t *numbers = test_allocate(count * 2);
    for (size_t i = 0; i < count; i++)
        numbers[i] = oracle_encode(test_format(dtype), size * 1.7320508 * oracle_unit(seed));
    void *there = device_copy_in(numbers, count * 2, 0);
    free(numbers);
    return there;
}

/** Up to `most` of the names that hold `text` (and not `except`), beginning at another one for each relay. */
static void pick(relay *r, const char *const *names, size_t count, const char *text, const char *except, int most,
                 size_t turn) {
    const char *fitting[TEST_MAX_CONFIGS];
    size_t fit = 0;
    for (size_t i = 0; i < count; i++)
        if (strstr(names[i], text) && !(except && strstr(names[i], except))) fitting[fit++] = names[i];
    for (int i = 0; i < most && (size_t)i < fit && r->pick_count < MAX_PICKS; i++)
        r->picks[r->pick_count++] = fitting[(turn * (size_t)most + (size_t)i) % fit];
}

/** The library's choice, and configs of each kind that there is. */
static void pick_configs(relay *r, const w4a16_canonical *form, size_t turn) {
    const char *names[TEST_MAX_CONFIGS];
    size_t count = cuda_case_configs(form, r->m, r->dtype, r->dtype, 0, names);
    r->picks[r->pick_count++] = NULL;
    pick(r, names, count, "_decode", NULL, 2, turn);
    pick(r, names, count, "_split2", NULL, 2, turn);
    pick(r, names, count, "sm90_", "_split2", 2, turn);
    pick(r, names, count, "_streamk", NULL, 1, turn);
    pick(r, names, count, "sm80_", "_decode", 1, turn);
}

static void relay_make(relay *r, uint64_t *seed, int64_t size, int64_t m, int64_t group_size, w4a16_zero_kind zero_kind,
                       w4a16_dtype dtype, size_t turn) {
    *r = (relay){.size = size, .m = m, .dtype = dtype, .stream = device_stream_create()};
    for (int i = 0; i < RUNNERS; i++) {
        test_weight arrays;
        test_weight_make(&arrays, seed, size, size, group_size, W4A16_FP16, zero_kind, TEST_NO_VALUES);
        CHECK(w4a16_weight_create(cuda, &arrays.canonical, &r->weights[i]));
        r->alphas[i] = (float)(0.9 / growth(&arrays));
        r->biases[i] = random_on_device(seed, dtype, (size_t)size, 0.44);
        if (i == 0) pick_configs(r, &arrays.canonical, turn);
        test_weight_free(&arrays);
    }
    for (int config = 0; config < r->pick_count; config++)
        for (int i = 0; i < RUNNERS; i++)
            for (uint32_t apart = 0; apart < 2; apart++) {
                w4a16_plan_info info = {.struct_size = sizeof info};
                w4a16_plan_options options;
                w4a16_plan_options_init(&options);
                options.m_max = m;
                options.a_dtype = dtype;
                options.alpha = r->alphas[i];
                options.bias = r->biases[i];
                options.config = r->picks[config];
                options.flags = apart ? W4A16_PLAN_NO_OVERLAP : 0;
                w4a16_plan **plan = &r->plans[config][i][apart];
                CHECK(w4a16_plan_create(r->weights[i], &options, plan));
                CHECK(w4a16_plan_query(*plan, &info));
                if (info.workspace_bytes > r->workspace_bytes) r->workspace_bytes = info.workspace_bytes;
            }
    r->bytes = (size_t)(m * size) * 2;
    r->look_bytes = (RELAY_CALLS / LOOK_EVERY + 1) * r->bytes;
    r->begin = random_on_device(seed, dtype, (size_t)(m * size), 1);
    for (int i = 0; i < 2; i++) r->arrays[i] = device_allocate(r->bytes);
    r->looks = device_allocate(r->look_bytes);
    r->workspace = device_allocate(r->workspace_bytes);
    r->expected = test_allocate(r->look_bytes);
    r->got = test_allocate(r->look_bytes);
}

static void relay_free(relay *r) {
    for (int i = 0; i < RUNNERS; i++) {
        for (int config = 0; config < r->pick_count; config++)
            for (int apart = 0; apart < 2; apart++) w4a16_plan_destroy(r->plans[config][i][apart]);
        w4a16_weight_destroy(r->weights[i]);
        device_free(r->biases[i], 0);
    }
    device_free(r->begin, 0);
    for (int i = 0; i < 2; i++) device_free(r->arrays[i], 0);
    device_free(r->looks, 0);
    device_free(r->workspace, 0);
    device_stream_destroy(r->stream);
    free(r->expected);
    free(r->got);
}

typedef enum relay_way { WAITED_FOR, IN_STREAM, IN_GRAPH } relay_way;

/** All calls from the beginning with config `pick` (-1: a mix), and what was seen at the looks to r->got. Copies and
 * fills, which know nothing of overlap, stand between the calls now and then: a look at the result; and the result put
 * back to where the call's input was, which poisons where it has been. */
static void relay_run(relay *r, int pick, int apart, relay_way way) {
    int calls = simulated ? 2 * LOOK_EVERY + 3 : RELAY_CALLS, at = 0;
    uint64_t seed = 17; /* the same calls each time */
    device_queue_fill(r->looks, 0xff, r->look_bytes, r->stream);
    device_queue_fill(r->workspace, 0xff, r->workspace_bytes, r->stream);
    device_synchronize(r->stream);
    if (way == IN_GRAPH) device_capture_begin(r->stream);
    device_queue_copy(r->arrays[0], r->begin, r->bytes, r->stream);
    device_queue_fill(r->arrays[1], 0xff, r->bytes, r->stream);
    int config = pick < 0 ? 0 : pick;
    for (int i = 0; i < calls; i++) {
        if (pick < 0 && oracle_below(&seed, 4) == 0) config = (int)oracle_below(&seed, (uint64_t)r->pick_count);
        w4a16_plan *plan = r->plans[config][oracle_below(&seed, RUNNERS)][apart];
        CHECK(w4a16_gemm(plan, r->arrays[at], r->size, r->arrays[1 - at], r->size, r->m, r->workspace,
                         r->workspace_bytes, r->stream));
        at = 1 - at;
        if (way == WAITED_FOR) device_synchronize(r->stream);
        if (i % LOOK_EVERY == LOOK_EVERY - 1 || i == calls - 1)
            device_queue_copy((char *)r->looks + (size_t)(i / LOOK_EVERY) * r->bytes, r->arrays[at], r->bytes,
                              r->stream);
        if (oracle_below(&seed, 8) == 0) {
            device_queue_copy(r->arrays[1 - at], r->arrays[at], r->bytes, r->stream);
            device_queue_fill(r->arrays[at], 0xff, r->bytes, r->stream);
            at = 1 - at;
        }
        if (way == WAITED_FOR) device_synchronize(r->stream);
    }
    if (way == IN_GRAPH) {
        void *graph = device_capture_end(r->stream);
        device_graph_launch(graph, r->stream);
        device_synchronize(r->stream);
        device_graph_destroy(graph);
    }
    device_synchronize(r->stream);
    device_copy_out(r->got, r->looks, r->look_bytes);
}

/** The values are of about the size that they began with: a test that compares zeros or infinities proves nothing. */
static void check_sound(const relay *r, const char *what) {
    const double *values = cuda_case_values(r->dtype);
    for (int i = 0; i <= (simulated ? 2 : RELAY_CALLS / LOOK_EVERY); i++) {
        double squares = 0;
        size_t count = r->bytes / 2;
        for (size_t j = 0; j < count; j++) {
            double value = values[r->got[(size_t)i * count + j]];
            squares += value * value;
        }
        double mean = sqrt(squares / (double)count);
        if (!(mean > 0.2 && mean < 5)) fail_msg("%s: at look %d the values are of size %g", what, i, mean);
    }
}

static void check_relay(relay *r, int pick) {
    static const struct {
        int apart;
        relay_way way;
        const char *text;
    } runs[] = {{1, WAITED_FOR, "waited for one by one"},
                {1, IN_STREAM, "without overlap in a stream"},
                {0, IN_STREAM, "with overlap in a stream"},
                {1, IN_GRAPH, "without overlap in a graph"},
                {0, IN_GRAPH, "with overlap in a graph"}};
    for (size_t i = 0; i < COUNT(runs); i++) {
        char what[256];
        snprintf(what, sizeof what, "calls of %s %s, m %d, size %d, %s",
                 pick < 0         ? "a mix of configs"
                 : r->picks[pick] ? r->picks[pick]
                                  : "(chosen)",
                 runs[i].text, (int)r->m, (int)r->size, w4a16_dtype_name(r->dtype));
        device_watch(what);
        relay_run(r, pick, runs[i].apart, runs[i].way);
        if (i == 0) {
            check_sound(r, what);
            memcpy(r->expected, r->got, r->look_bytes);
            continue;
        }
        size_t place = 0, count = r->bytes / 2;
        if (memcmp(r->got, r->expected, r->look_bytes) == 0) continue;
        while (r->got[place] == r->expected[place]) place++;
        fail_msg("%s: after call %d element %d of row %d is 0x%04x, not 0x%04x", what,
                 (int)(place / count + 1) * LOOK_EVERY, (int)(place % count % (size_t)r->size),
                 (int)(place % count / (size_t)r->size), r->got[place], r->expected[place]);
    }
}

static void overlap_changes_no_bit(void **state) {
    (void)state;
    static const int64_t m_values[] = {1, 4, 8, 16, 33}, sizes[] = {512, 1024}, small[] = {136};
    static const struct {
        int64_t group_size;
        w4a16_zero_kind zero_kind;
    } kinds[] = {
        {128, W4A16_ZERO_SYMMETRIC}, {128, W4A16_ZERO_INTEGER}, {64, W4A16_ZERO_SYMMETRIC}, {32, W4A16_ZERO_INTEGER}};
    static relay r;
    uint64_t seed = 94;
    size_t turn = 0;
    for (size_t i = 0; i < (simulated ? COUNT(small) : COUNT(sizes)); i++)
        for (size_t j = 0; j < (simulated ? 3 : COUNT(m_values)); j++, turn++) {
            size_t kind = (i + j) % COUNT(kinds);
            device_watch(NULL);
            relay_make(&r, &seed, simulated ? small[i] : sizes[i], m_values[j], kinds[kind].group_size,
                       kinds[kind].zero_kind, halves[(i + j / 2) % 2], turn);
            for (int config = -1; config < r.pick_count; config++) check_relay(&r, config);
            relay_free(&r);
        }
}

int main(int argc, char **argv) {
    int code = cuda_case_find(argc, argv);
    if (code) return code;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_and_fills_keep_their_place),
        cmocka_unit_test(overlap_changes_no_bit),
        cmocka_unit_test(each_call_reads_what_the_last_one_wrote),
        cmocka_unit_test(two_contexts_serve_two_threads),
    };
    return cmocka_run_group_tests(tests, cuda_case_begin, cuda_case_end);
}
