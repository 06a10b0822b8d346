/* SPDX-License-Identifier: Apache-2.0
 * What the test programs of the GPU's GEMM share. */
#include "cuda_case.h"

#include <math.h>

const w4a16_dtype halves[2] = {W4A16_FP16, W4A16_BF16};
const w4a16_dtype scale_dtypes[3] = {W4A16_FP16, W4A16_BF16, W4A16_FP32};

int simulated, reduced;
w4a16_context *cuda, *cpu;

int cuda_case_find(int argc, char **argv) {
    w4a16_device_info info = {.struct_size = sizeof info};
    int found = 0;
    simulated = getenv("W4A16_FAKE_CUDA") != NULL;
    reduced = getenv("W4A16_TEST_REDUCED") != NULL;
    setvbuf(stdout, NULL, _IOLBF, 0); /* what device_watch ends must have been seen */
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    for (int i = 0; !found && w4a16_device_query(i, &info) == W4A16_OK; i++) found = strcmp(info.id, "cuda:0") == 0;
    if (found && info.usable) {
        printf("on %s, %s: %s\n", info.id, info.name, info.reason);
        return 0;
    }
    printf("skipped: %s\n", found ? info.reason : "this build has no CUDA backend");
    return simulated ? 1 : 77; /* the fake driver has no excuse */
}

w4a16_context *cuda_case_context(const char *device) {
    w4a16_context_options options;
    w4a16_context_options_init(&options);
    options.device = device;
    w4a16_context *context = NULL;
    CHECK(w4a16_context_create(&options, &context));
    return context;
}

static int is_wanted(const char *config) {
    const char *text = getenv("W4A16_TEST_CONFIG");
    return !text || strstr(config, text);
}

int cuda_case_begin(void **state) {
    (void)state;
    w4a16_config_info infos[TEST_MAX_CONFIGS];
    size_t count = 0, wanted = 0;
    device_begin();
    cuda = cuda_case_context("cuda:0");
    cpu = cuda_case_context("cpu");
    CHECK(w4a16_config_list(cuda, NULL, infos, TEST_MAX_CONFIGS, &count));
    assert_in_range(count, 1, TEST_MAX_CONFIGS);
    for (size_t i = 0; i < count; i++) wanted += is_wanted(infos[i].name) != 0;
    print_message("%d of %d configs\n", (int)wanted, (int)count);
    assert_true(wanted);
    return 0;
}

int cuda_case_end(void **state) {
    (void)state;
    device_watch(NULL);
    w4a16_context_destroy(cuda);
    w4a16_context_destroy(cpu);
    device_end();
    return 0;
}

size_t cuda_case_configs(const w4a16_canonical *weight, int64_t m, w4a16_dtype a_dtype, w4a16_dtype c_dtype,
                         uint32_t flags, const char *names[TEST_MAX_CONFIGS]) {
    static size_t turn;
    w4a16_problem problem = test_problem(weight, m, a_dtype, c_dtype, flags);
    w4a16_config_info infos[TEST_MAX_CONFIGS];
    size_t listed = 0, count = 0;
    CHECK(w4a16_config_list(cuda, &problem, infos, TEST_MAX_CONFIGS, &listed));
    for (size_t i = 0; i < listed; i++) {
        if (infos[i].feasible != !infos[i].reason[0])
            fail_msg("%s: feasible is %d, the reason '%s'", infos[i].name, infos[i].feasible, infos[i].reason);
        if (infos[i].feasible && is_wanted(infos[i].name)) names[count++] = infos[i].name;
    }
    if (!simulated || count <= 2) return count;
    const char *two[] = {names[turn % count], names[(turn + 1) % count]};
    turn += 2;
    memcpy(names, two, sizeof two);
    return 2;
}

const double *cuda_case_values(w4a16_dtype dtype) {
    static double values[2][65536];
    double *table = values[dtype == W4A16_BF16];
    if (table[1] == 0)
        for (int bits = 0; bits < 65536; bits++) table[bits] = oracle_decode(test_format(dtype), (uint16_t)bits);
    return table;
}

double cuda_case_limit(double inherent) {
    return fmax(2e-3, 1.1 * inherent);
}

void *cuda_case_bias(uint64_t *seed, int64_t n, w4a16_dtype dtype, int exact, double *values) {
    void *bias = test_allocate((size_t)n * w4a16_dtype_size(dtype));
    for (int64_t i = 0; i < n; i++) {
        double value = exact ? ((double)oracle_below(seed, 129) - 64) / 4 : 0.1 * oracle_unit(seed);
        if (dtype == W4A16_FP32) {
            ((float *)bias)[i] = (float)value;
            values[i] = (double)(float)value;
        } else {
            uint16_t bits = oracle_encode(test_format(dtype), value);
            ((uint16_t *)bias)[i] = bits;
            values[i] = oracle_decode(test_format(dtype), bits);
        }
    }
    return bias;
}
