/* SPDX-License-Identifier: Apache-2.0
 * Quantising through the API: one matrix into arrays, weight and product; a model into a checkpoint and out of it. */
#include "support.h"

#include <sys/stat.h>
#include <unistd.h>

static double *random_matrix(uint64_t *seed, int64_t n, int64_t k, float *stored) {
    double *values = test_allocate((size_t)(n * k) * sizeof *values);
    for (int64_t i = 0; i < n * k; i++) {
        double normal = 0;
        for (int j = 0; j < 4; j++) normal += 0.8660254 * oracle_unit(seed);
        stored[i] = (float)(0.05 * normal + 0.01);
        values[i] = (double)stored[i];
    }
    return values;
}

static void quantised_matrices_multiply(void **state) {
    (void)state;
    enum { N = 48, K = 320, M = 6 };
    for (int kind = 0; kind < 12; kind++) {
        static const w4a16_dtype scale_dtypes[] = {W4A16_FP16, W4A16_BF16, W4A16_FP32};
        uint64_t seed = (uint64_t)kind;
        float *w = test_allocate(N * K * sizeof *w);
        double *values = random_matrix(&seed, N, K, w);
        w4a16_quantize_options options;
        w4a16_quantize_options_init(&options);
        options.method = kind % 2 ? W4A16_QUANTIZE_RTN : W4A16_QUANTIZE_MSE;
        options.asymmetric = kind / 2 % 2;
        options.scale_dtype = scale_dtypes[kind / 4];
        options.group_size = kind / 2 % 3 ? 64 : -1;
        int64_t groups = options.group_size == -1 ? 1 : K / 64;
        uint8_t *codes = test_allocate(N * K / 2), *zeros = test_allocate((size_t)(N * groups));
        void *scales = test_allocate((size_t)(N * groups) * 4);
        double signal = 0, noise = 0;
        CHECK(w4a16_quantize(&options, w, W4A16_FP32, N, K, K, codes, scales, options.asymmetric ? zeros : NULL,
                             &signal, &noise));
        w4a16_canonical canonical;
        w4a16_canonical_init(&canonical);
        canonical.n = N;
        canonical.k = K;
        canonical.group_size = options.group_size;
        canonical.codes = codes;
        canonical.scales = scales;
        canonical.scale_dtype = options.scale_dtype;
        canonical.zero_kind = options.asymmetric ? W4A16_ZERO_INTEGER : W4A16_ZERO_SYMMETRIC;
        canonical.zeros = options.asymmetric ? zeros : NULL;
        w4a16_context *context = test_context(NULL, 0);
        w4a16_weight *weight = NULL;
        CHECK(w4a16_weight_create(context, &canonical, &weight));
        test_activations a;
        test_activations_make(&a, &seed, W4A16_FP16, M, K, K, 0);
        uint16_t c[M * N];
        w4a16_plan *plan = test_plan(weight, M, W4A16_FP16, W4A16_FP16, NULL);
        CHECK(w4a16_gemm_host(plan, a.data, K, c, N, M));
        double difference = 0, total = 0, true_signal = 0, true_noise = 0;
        for (int row = 0; row < M; row++)
            for (int i = 0; i < N; i++) {
                double sum = 0, got = oracle_decode(oracle_fp16, c[row * N + i]);
                for (int j = 0; j < K; j++) sum += a.values[row * K + j] * values[i * K + j];
                difference += (got - sum) * (got - sum);
                total += sum * sum;
            }
        /* Four bits on normal data: about 20 dB, more or less by group size and method. */
        assert_true(sqrt(difference / total) < 0.2);
        assert_true(sqrt(difference / total) > 1e-3);
        for (int i = 0; i < N * K; i++) {
            int64_t index = i / K * groups + i % K / (K / groups);
            double scale = options.scale_dtype == W4A16_FP32
                               ? (double)((float *)scales)[index]
                               : oracle_decode(test_format(options.scale_dtype), ((uint16_t *)scales)[index]);
            double zero = options.asymmetric ? zeros[index] : 8;
            double decoded = ((codes[i / 2] >> (i % 2 * 4) & 15) - zero) * scale;
            true_signal += values[i] * values[i];
            true_noise += (decoded - values[i]) * (decoded - values[i]);
        }
        assert_true(fabs(signal / true_signal - 1) < 1e-6);
        assert_true(fabs(noise / true_noise - 1) < 1e-6);
        w4a16_plan_destroy(plan);
        w4a16_weight_destroy(weight);
        w4a16_context_destroy(context);
        test_activations_free(&a);
        free(w);
        free(values);
        free(codes);
        free(zeros);
        free(scales);
    }
}

/** A matrix in the middle of a larger one, in each dtype, gives the same as a dense fp32 copy of its values. */
static void strides_and_dtypes_do_not_matter(void **state) {
    (void)state;
    enum { N = 5, K = 96, STRIDE = 101 };
    static const w4a16_dtype dtypes[] = {W4A16_FP16, W4A16_BF16, W4A16_FP32};
    for (size_t d = 0; d < 3; d++) {
        uint64_t seed = d;
        float dense[N * K];
        unsigned char strided[N * STRIDE * 4];
        memset(strided, 0xff, sizeof strided); /* NaN between the rows: not ours to look at */
        for (int row = 0; row < N; row++)
            for (int j = 0; j < K; j++) {
                double value = oracle_unit(&seed);
                if (dtypes[d] == W4A16_FP32) {
                    dense[row * K + j] = (float)value;
                    ((float *)(void *)strided)[row * STRIDE + j] = (float)value;
                } else {
                    uint16_t bits = oracle_encode(test_format(dtypes[d]), value);
                    dense[row * K + j] = (float)oracle_decode(test_format(dtypes[d]), bits);
                    ((uint16_t *)(void *)strided)[row * STRIDE + j] = bits;
                }
            }
        w4a16_quantize_options options;
        w4a16_quantize_options_init(&options);
        options.group_size = 32;
        options.asymmetric = 1;
        uint8_t codes[2][N * K / 2], zeros[2][N * 3];
        uint16_t scales[2][N * 3];
        CHECK(w4a16_quantize(&options, dense, W4A16_FP32, N, K, K, codes[0], scales[0], zeros[0], NULL, NULL));
        CHECK(w4a16_quantize(&options, strided, dtypes[d], N, K, STRIDE, codes[1], scales[1], zeros[1], NULL, NULL));
        assert_memory_equal(codes[0], codes[1], sizeof codes[0]);
        assert_memory_equal(scales[0], scales[1], sizeof scales[0]);
        assert_memory_equal(zeros[0], zeros[1], sizeof zeros[0]);
    }
}

static void put(const char *path, const char *content) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs(content, file);
    fclose(file);
}

enum { MODULES = 3 };
static const struct {
    const char *name;
    int64_t n, k;
} modules[MODULES] = {{"model.layers.0.mlp.down_proj", 64, 256},
                      {"model.layers.0.mlp.up_proj", 256, 128},
                      {"model.layers.1.self_attn.q_proj", 128, 384}};

/** A model folder: three linear layers in fp16, bf16 and fp32, a norm, an embedding, config.json and a text. */
static void write_model(const char *folder) {
    static const w4a16_dtype dtypes[MODULES] = {W4A16_FP16, W4A16_BF16, W4A16_FP32};
    w4a16_tensor tensors[MODULES + 2];
    void *data[MODULES + 2];
    char names[MODULES][96], path[128];
    uint64_t seed = 4;
    for (int i = 0; i < MODULES + 2; i++) {
        int64_t n = i < MODULES ? modules[i].n : 96, k = i < MODULES ? modules[i].k : i == MODULES ? 1 : 64;
        w4a16_dtype dtype = i < MODULES ? dtypes[i] : W4A16_FP16;
        float *values = test_allocate((size_t)(n * k) * sizeof *values);
        free(random_matrix(&seed, n, k, values));
        data[i] = test_allocate((size_t)(n * k) * w4a16_dtype_size(dtype));
        CHECK(w4a16_convert_elements(values, W4A16_FP32, data[i], dtype, (size_t)(n * k)));
        free(values);
        if (i < MODULES) snprintf(names[i], sizeof names[i], "%s.weight", modules[i].name);
        tensors[i] = (w4a16_tensor){.name = i < MODULES    ? names[i]
                                            : i == MODULES ? "model.norm.weight"
                                                           : "model.embed_tokens.weight",
                                    .dtype = dtype,
                                    .dimensions = i == MODULES ? 1 : 2,
                                    .shape = {n, k},
                                    .data = data[i],
                                    .bytes = (uint64_t)(n * k) * w4a16_dtype_size(dtype)};
    }
    assert_int_equal(mkdir(folder, 0700), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    CHECK(w4a16_tensor_file_write(path, tensors, MODULES + 2, 0));
    REFUSED(w4a16_tensor_file_write(path, tensors, MODULES + 2, 0), W4A16_ERROR_EXISTS, path);
    for (int i = 0; i < MODULES + 2; i++) free(data[i]);
    snprintf(path, sizeof path, "%s/config.json", folder);
    put(path, "{\"model_type\": \"llama\", \"hidden_size\": 256}\n");
    snprintf(path, sizeof path, "%s/tokenizer.txt", folder);
    put(path, "words\n");
}

/** Load every module, multiply, and hold it against the checkpoint's own slow decoder. */
static void check_checkpoint(const char *path, w4a16_format format, int asymmetric) {
    w4a16_checkpoint *checkpoint = NULL;
    CHECK(w4a16_checkpoint_open(path, &checkpoint));
    assert_int_equal(w4a16_checkpoint_count(checkpoint), MODULES);
    w4a16_context *context = test_context(NULL, 0);
    for (size_t i = 0; i < MODULES; i++) {
        w4a16_module_info info = {.struct_size = sizeof info};
        CHECK(w4a16_checkpoint_module(checkpoint, i, &info));
        assert_string_equal(info.name, modules[i].name);
        assert_int_equal(info.format, format);
        assert_int_equal(info.n, modules[i].n);
        assert_int_equal(info.k, modules[i].k);
        assert_int_equal(info.group_size, 64);
        assert_true(info.supported);
        assert_int_equal(info.zero_kind, asymmetric ? W4A16_ZERO_INTEGER : W4A16_ZERO_SYMMETRIC);
        size_t index = 99;
        CHECK(w4a16_checkpoint_find(checkpoint, info.name, &index));
        assert_int_equal(index, i);
        int64_t n = info.n, k = info.k;
        double *values = test_allocate((size_t)(n * k) * sizeof *values);
        CHECK(w4a16_checkpoint_dequantize(checkpoint, info.name, W4A16_FP64, values, k));
        w4a16_weight *weight = NULL;
        CHECK(w4a16_checkpoint_load(checkpoint, context, info.name, &weight));
        uint64_t seed = i;
        test_activations a;
        test_activations_make(&a, &seed, W4A16_FP16, 4, k, k, 0);
        uint16_t *c = test_allocate((size_t)(4 * n) * 2);
        w4a16_plan *plan = test_plan(weight, 4, W4A16_FP16, W4A16_FP16, NULL);
        CHECK(w4a16_gemm_host(plan, a.data, k, c, n, 4));
        double difference = 0, total = 0;
        for (int64_t row = 0; row < 4; row++)
            for (int64_t column = 0; column < n; column++) {
                double sum = 0, got = oracle_decode(oracle_fp16, c[row * n + column]);
                for (int64_t j = 0; j < k; j++) sum += a.values[row * k + j] * values[column * k + j];
                difference += (got - sum) * (got - sum);
                total += sum * sum;
            }
        assert_true(sqrt(difference / total) < 2e-3);
        w4a16_plan_destroy(plan);
        w4a16_weight_destroy(weight);
        test_activations_free(&a);
        free(c);
        free(values);
    }
    w4a16_context_destroy(context);
    w4a16_checkpoint_close(checkpoint);
}

typedef struct watcher {
    int calls, cancel_at, wrong;
    uint64_t last;
    double signal, noise;
} watcher;

static int watch(const w4a16_progress *progress, void *user) {
    watcher *self = user;
    if (!progress->tensor || progress->done_bytes < self->last || progress->done_bytes > progress->total_bytes)
        self->wrong++;
    if (progress->n && !(progress->sqnr_db > 5 && progress->sqnr_db < 60)) self->wrong++;
    if (!progress->n && progress->sqnr_db != 0) self->wrong++;
    self->signal += progress->signal;
    self->noise += progress->noise;
    self->last = progress->done_bytes;
    return ++self->calls == self->cancel_at;
}

static void models_are_quantised_and_load_again(void **state) {
    (void)state;
    static const w4a16_format formats[] = {W4A16_FORMAT_COMPRESSED_TENSORS, W4A16_FORMAT_GPTQ, W4A16_FORMAT_AWQ};
    char folder[64], model[80], output[96], converted[112];
    test_make_folder(folder);
    snprintf(model, sizeof model, "%s/model", folder);
    write_model(model);
    for (int kind = 0; kind < 6; kind++) {
        snprintf(output, sizeof output, "%s/output%d", folder, kind);
        w4a16_quantize_options options;
        w4a16_quantize_options_init(&options);
        watcher progress = {.cancel_at = -1};
        options.group_size = 64;
        options.asymmetric = kind % 2;
        options.format = formats[kind / 2];
        options.progress = watch;
        options.user = &progress;
        CHECK(w4a16_checkpoint_quantize(model, output, &options));
        assert_true(progress.calls >= MODULES);
        assert_int_equal(progress.wrong, 0);
        assert_true(progress.signal > 10 * progress.noise && progress.noise > 0);
        check_checkpoint(output, options.format, options.asymmetric);
        snprintf(converted, sizeof converted, "%s/tokenizer.txt", output);
        assert_int_equal(access(converted, R_OK), 0);
        REFUSED(w4a16_checkpoint_quantize(model, output, &options), W4A16_ERROR_EXISTS, output);
        check_checkpoint(output, options.format, options.asymmetric);
        /* And into each other format. */
        for (int other = 0; other < 3; other++) {
            snprintf(converted, sizeof converted, "%s/converted%d-%d", folder, kind, other);
            w4a16_convert_options convert;
            w4a16_convert_options_init(&convert);
            convert.format = formats[other];
            CHECK(w4a16_checkpoint_convert(output, converted, &convert));
            check_checkpoint(converted, formats[other], options.asymmetric);
            w4a16_checkpoint *before = NULL, *after = NULL;
            CHECK(w4a16_checkpoint_open(output, &before));
            CHECK(w4a16_checkpoint_open(converted, &after));
            for (int i = 0; i < MODULES; i++) {
                size_t count = (size_t)(modules[i].n * modules[i].k);
                double *a = test_allocate(count * 8), *b = test_allocate(count * 8);
                CHECK(w4a16_checkpoint_dequantize(before, modules[i].name, W4A16_FP64, a, modules[i].k));
                CHECK(w4a16_checkpoint_dequantize(after, modules[i].name, W4A16_FP64, b, modules[i].k));
                assert_memory_equal(a, b, count * 8);
                free(a);
                free(b);
            }
            w4a16_checkpoint_close(before);
            w4a16_checkpoint_close(after);
        }
    }
    test_remove_folder(folder);
}

static void cancelling_leaves_nothing(void **state) {
    (void)state;
    char folder[64], model[80], output[96];
    test_make_folder(folder);
    snprintf(model, sizeof model, "%s/model", folder);
    snprintf(output, sizeof output, "%s/output", folder);
    write_model(model);
    for (int at = 1; at <= MODULES; at++) {
        w4a16_quantize_options options;
        w4a16_quantize_options_init(&options);
        watcher progress = {.cancel_at = at};
        options.group_size = 64;
        options.progress = watch;
        options.user = &progress;
        w4a16_status status = w4a16_checkpoint_quantize(model, output, &options);
        assert_int_equal(status, W4A16_ERROR_CANCELLED);
        assert_int_equal(progress.calls, at);
        assert_int_not_equal(access(output, F_OK), 0);
    }
    test_remove_folder(model);
    assert_int_equal(rmdir(folder), 0); /* nothing else is in it */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantised_matrices_multiply),
        cmocka_unit_test(strides_and_dtypes_do_not_matter),
        cmocka_unit_test(models_are_quantised_and_load_again),
        cmocka_unit_test(cancelling_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
