/* SPDX-License-Identifier: Apache-2.0
 * Tensor files, checkpoints and the quantiser called wrongly: status, a text that names the argument, no output. */
#include "support.h"

#include <sys/stat.h>
#include <unistd.h>

static char folder[64];
static char marker;
#define UNTOUCHED ((void *)&marker)

static const char *in_folder(const char *name) {
    static char paths[8][128];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void put(const char *path, const void *content, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, size, file), size);
    fclose(file);
}

/** FOLDER/plain.safetensors: one unquantised layer. FOLDER/quantised.safetensors: the same in 4 bits. */
static int set_up(void **state) {
    (void)state;
    test_make_folder(folder);
    uint64_t seed = 1;
    uint16_t *data = test_allocate(64 * 128 * 2);
    for (int i = 0; i < 64 * 128; i++) data[i] = oracle_encode(oracle_fp16, oracle_unit(&seed));
    w4a16_tensor tensors[] = {
        {"layer.weight", W4A16_FP16, 2, {64, 128}, data, 64 * 128 * 2},
        {"layer.bias", W4A16_FP16, 1, {64}, data, 64 * 2},
    };
    CHECK(w4a16_tensor_file_write(in_folder("plain.safetensors"), tensors, 2, 0));
    w4a16_quantize_options options;
    w4a16_quantize_options_init(&options);
    CHECK(w4a16_checkpoint_quantize(in_folder("plain.safetensors"), in_folder("quantised.safetensors"), &options));
    free(data);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    test_remove_folder(folder);
    return 0;
}

static void assert_no_output(void) {
    assert_int_not_equal(access(in_folder("output"), F_OK), 0);
}

static void tensor_file_open(void **state) {
    (void)state;
    w4a16_tensor_file *file = UNTOUCHED;
    REFUSED(w4a16_tensor_file_open(NULL, &file), W4A16_ERROR_INVALID_ARGUMENT, "path");
    REFUSED(w4a16_tensor_file_open(in_folder("plain.safetensors"), NULL), W4A16_ERROR_INVALID_ARGUMENT, "file");
    REFUSED(w4a16_tensor_file_open(in_folder("none"), &file), W4A16_ERROR_NOT_FOUND, "none");
    REFUSED(w4a16_tensor_file_open(folder, &file), W4A16_ERROR_IO, folder);
    put(in_folder("empty"), "", 0);
    REFUSED(w4a16_tensor_file_open(in_folder("empty"), &file), W4A16_ERROR_FORMAT, "empty");
    put(in_folder("short"), "\x10\0\0\0\0\0\0", 7);
    REFUSED(w4a16_tensor_file_open(in_folder("short"), &file), W4A16_ERROR_FORMAT, "short");
    put(in_folder("huge"), "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    REFUSED(w4a16_tensor_file_open(in_folder("huge"), &file), W4A16_ERROR_FORMAT, "huge");
    put(in_folder("list"), "\2\0\0\0\0\0\0\0[]", 10);
    REFUSED(w4a16_tensor_file_open(in_folder("list"), &file), W4A16_ERROR_FORMAT, "list");
    assert_ptr_equal(file, UNTOUCHED);
    w4a16_tensor_file_close(NULL);
}

static void tensor_file_read(void **state) {
    (void)state;
    w4a16_tensor_file *file = NULL;
    CHECK(w4a16_tensor_file_open(in_folder("plain.safetensors"), &file));
    assert_int_equal(w4a16_tensor_file_count(file), 2);
    assert_int_equal(w4a16_tensor_file_count(NULL), 0);
    w4a16_tensor tensor, before;
    memset(&tensor, 0x5a, sizeof tensor);
    before = tensor;
    REFUSED(w4a16_tensor_file_get(NULL, 0, &tensor), W4A16_ERROR_INVALID_ARGUMENT, "file");
    REFUSED(w4a16_tensor_file_get(file, 0, NULL), W4A16_ERROR_INVALID_ARGUMENT, "tensor");
    assert_int_not_equal(w4a16_tensor_file_get(file, 2, &tensor), W4A16_OK);
    assert_non_null(strstr(w4a16_last_error(), "index"));
    assert_int_not_equal(w4a16_tensor_file_get(file, SIZE_MAX, &tensor), W4A16_OK);
    REFUSED(w4a16_tensor_file_find(NULL, "layer.weight", &tensor), W4A16_ERROR_INVALID_ARGUMENT, "file");
    REFUSED(w4a16_tensor_file_find(file, NULL, &tensor), W4A16_ERROR_INVALID_ARGUMENT, "name");
    REFUSED(w4a16_tensor_file_find(file, "layer.weight", NULL), W4A16_ERROR_INVALID_ARGUMENT, "tensor");
    REFUSED(w4a16_tensor_file_find(file, "layer", &tensor), W4A16_ERROR_NOT_FOUND, "layer");
    REFUSED(w4a16_tensor_file_find(file, "", &tensor), W4A16_ERROR_NOT_FOUND, "");
    assert_memory_equal(&tensor, &before, sizeof tensor);
    CHECK(w4a16_tensor_file_find(file, "layer.bias", &tensor));
    assert_int_equal(tensor.shape[0], 64);
    w4a16_tensor_file_close(file);
}

static void tensor_file_write(void **state) {
    (void)state;
    float data[6] = {1, 2, 3, 4, 5, 6};
    const w4a16_tensor good = {"a", W4A16_FP32, 2, {2, 3}, data, sizeof data};
    const char *path = in_folder("output");
    REFUSED(w4a16_tensor_file_write(NULL, &good, 1, 0), W4A16_ERROR_INVALID_ARGUMENT, "path");
    REFUSED(w4a16_tensor_file_write(path, NULL, 1, 0), W4A16_ERROR_INVALID_ARGUMENT, "tensors");
    REFUSED(w4a16_tensor_file_write(in_folder("none/output"), &good, 1, 0), W4A16_ERROR_NOT_FOUND, "none/output");
    w4a16_tensor bad = good;
    bad.name = NULL;
    REFUSED(w4a16_tensor_file_write(path, &bad, 1, 0), W4A16_ERROR_INVALID_ARGUMENT, "name");
    bad = good, bad.data = NULL;
    REFUSED(w4a16_tensor_file_write(path, &bad, 1, 0), W4A16_ERROR_INVALID_ARGUMENT, "data");
    bad = good, bad.bytes = sizeof data - 4;
    REFUSED(w4a16_tensor_file_write(path, &bad, 1, 0), W4A16_ERROR_INVALID_ARGUMENT, "bytes");
    bad = good, bad.dimensions = -1;
    REFUSED(w4a16_tensor_file_write(path, &bad, 1, 0), W4A16_ERROR_INVALID_ARGUMENT, "dimensions");
    bad.dimensions = W4A16_MAX_DIMENSIONS + 1;
    REFUSED(w4a16_tensor_file_write(path, &bad, 1, 0), W4A16_ERROR_INVALID_ARGUMENT, "dimensions");
    bad = good, bad.shape[1] = -3;
    REFUSED(w4a16_tensor_file_write(path, &bad, 1, 0), W4A16_ERROR_INVALID_ARGUMENT, "shape");
    bad = good, bad.shape[0] = INT64_MAX;
    assert_int_equal(w4a16_tensor_file_write(path, &bad, 1, 0), W4A16_ERROR_INVALID_ARGUMENT);
    bad = good, bad.dtype = W4A16_DTYPE_NONE;
    REFUSED(w4a16_tensor_file_write(path, &bad, 1, 0), W4A16_ERROR_INVALID_ARGUMENT, "dtype");
    bad.dtype = (w4a16_dtype)77;
    REFUSED(w4a16_tensor_file_write(path, &bad, 1, 0), W4A16_ERROR_INVALID_ARGUMENT, "dtype");
    const w4a16_tensor twice[2] = {good, good};
    assert_int_equal(w4a16_tensor_file_write(path, twice, 2, 0), W4A16_ERROR_INVALID_ARGUMENT);
    assert_no_output();
    CHECK(w4a16_tensor_file_write(path, NULL, 0, 0)); /* an empty file is a file */
    w4a16_tensor_file *file = NULL;
    CHECK(w4a16_tensor_file_open(path, &file));
    assert_int_equal(w4a16_tensor_file_count(file), 0);
    w4a16_tensor_file_close(file);
    unlink(path);
}

static void checkpoint_open(void **state) {
    (void)state;
    w4a16_checkpoint *checkpoint = UNTOUCHED;
    REFUSED(w4a16_checkpoint_open(NULL, &checkpoint), W4A16_ERROR_INVALID_ARGUMENT, "path");
    REFUSED(w4a16_checkpoint_open(in_folder("quantised.safetensors"), NULL), W4A16_ERROR_INVALID_ARGUMENT,
            "checkpoint");
    REFUSED(w4a16_checkpoint_open(in_folder("none"), &checkpoint), W4A16_ERROR_NOT_FOUND, "none");
    assert_int_not_equal(w4a16_checkpoint_open("", &checkpoint), W4A16_OK);
    assert_int_equal(mkdir(in_folder("nothing"), 0700), 0);
    REFUSED(w4a16_checkpoint_open(in_folder("nothing"), &checkpoint), W4A16_ERROR_NOT_FOUND, "nothing");
    assert_ptr_equal(checkpoint, UNTOUCHED);
    w4a16_checkpoint_close(NULL);
    assert_int_equal(w4a16_checkpoint_count(NULL), 0);
}

static void checkpoint_use(void **state) {
    (void)state;
    w4a16_checkpoint *checkpoint = NULL;
    w4a16_context *context = test_context(NULL, 0);
    CHECK(w4a16_checkpoint_open(in_folder("quantised.safetensors"), &checkpoint));
    assert_int_equal(w4a16_checkpoint_count(checkpoint), 1);
    w4a16_module_info info = {.struct_size = sizeof info};
    REFUSED(w4a16_checkpoint_module(NULL, 0, &info), W4A16_ERROR_INVALID_ARGUMENT, "checkpoint");
    REFUSED(w4a16_checkpoint_module(checkpoint, 0, NULL), W4A16_ERROR_INVALID_ARGUMENT, "info");
    assert_int_not_equal(w4a16_checkpoint_module(checkpoint, 1, &info), W4A16_OK);
    assert_non_null(strstr(w4a16_last_error(), "index"));
    info.struct_size = 4;
    REFUSED(w4a16_checkpoint_module(checkpoint, 0, &info), W4A16_ERROR_INVALID_ARGUMENT, "struct_size");
    size_t index = 77;
    REFUSED(w4a16_checkpoint_find(NULL, "layer", &index), W4A16_ERROR_INVALID_ARGUMENT, "checkpoint");
    REFUSED(w4a16_checkpoint_find(checkpoint, NULL, &index), W4A16_ERROR_INVALID_ARGUMENT, "module");
    REFUSED(w4a16_checkpoint_find(checkpoint, "layer", NULL), W4A16_ERROR_INVALID_ARGUMENT, "index");
    static const char *const unknown[] = {"", "laye", "layer.", "layer2", "layer.bias", "LAYER", ".weight"};
    for (size_t i = 0; i < COUNT(unknown); i++)
        REFUSED(w4a16_checkpoint_find(checkpoint, unknown[i], &index), W4A16_ERROR_NOT_FOUND, unknown[i]);
    assert_int_equal(index, 77);
    CHECK(w4a16_checkpoint_find(checkpoint, "layer.weight", &index));
    assert_int_equal(index, 0);
    w4a16_weight *weight = UNTOUCHED;
    REFUSED(w4a16_checkpoint_load(NULL, context, "layer", &weight), W4A16_ERROR_INVALID_ARGUMENT, "checkpoint");
    REFUSED(w4a16_checkpoint_load(checkpoint, NULL, "layer", &weight), W4A16_ERROR_INVALID_ARGUMENT, "context");
    REFUSED(w4a16_checkpoint_load(checkpoint, context, NULL, &weight), W4A16_ERROR_INVALID_ARGUMENT, "module");
    REFUSED(w4a16_checkpoint_load(checkpoint, context, "layer", NULL), W4A16_ERROR_INVALID_ARGUMENT, "weight");
    REFUSED(w4a16_checkpoint_load(checkpoint, context, "other", &weight), W4A16_ERROR_NOT_FOUND, "other");
    assert_ptr_equal(weight, UNTOUCHED);
    float *w = test_allocate(64 * 128 * sizeof *w);
    REFUSED(w4a16_checkpoint_dequantize(NULL, "layer", W4A16_FP32, w, 128), W4A16_ERROR_INVALID_ARGUMENT, "checkpoint");
    REFUSED(w4a16_checkpoint_dequantize(checkpoint, NULL, W4A16_FP32, w, 128), W4A16_ERROR_INVALID_ARGUMENT, "module");
    REFUSED(w4a16_checkpoint_dequantize(checkpoint, "layer", W4A16_FP32, NULL, 128), W4A16_ERROR_INVALID_ARGUMENT,
            "w is");
    static const int dtypes[] = {W4A16_DTYPE_NONE, W4A16_INT8, W4A16_INT32, W4A16_FP8_E4M3, -1, 50};
    for (size_t i = 0; i < COUNT(dtypes); i++)
        REFUSED(w4a16_checkpoint_dequantize(checkpoint, "layer", (w4a16_dtype)dtypes[i], w, 128),
                W4A16_ERROR_INVALID_ARGUMENT, "dtype");
    static const int64_t strides[] = {127, 0, -1, INT64_MIN};
    for (size_t i = 0; i < COUNT(strides); i++)
        REFUSED(w4a16_checkpoint_dequantize(checkpoint, "layer", W4A16_FP32, w, strides[i]),
                W4A16_ERROR_INVALID_ARGUMENT, "stride");
    REFUSED(w4a16_checkpoint_dequantize(checkpoint, "other", W4A16_FP32, w, 128), W4A16_ERROR_NOT_FOUND, "other");
    for (int i = 0; i < 64 * 128; i++) assert_true(w[i] == 0);
    free(w);
    w4a16_context_destroy(context);
    w4a16_checkpoint_close(checkpoint);
}

typedef struct arguments {
    const w4a16_quantize_options *options;
    const void *w;
    w4a16_dtype dtype;
    int64_t n, k, stride;
} arguments;

static uint8_t codes[4 * 32], zeros[4];
static uint16_t scales[4];

static void refuse_quantize(const arguments *call, const char *text) {
    memset(codes, 0x5a, sizeof codes);
    memset(scales, 0x5a, sizeof scales);
    memset(zeros, 0x5a, sizeof zeros);
    double signal = 5, noise = 5;
    REFUSED(w4a16_quantize(call->options, call->w, call->dtype, call->n, call->k, call->stride, codes, scales, zeros,
                           &signal, &noise),
            W4A16_ERROR_INVALID_ARGUMENT, text);
    for (size_t i = 0; i < sizeof codes; i++) assert_int_equal(codes[i], 0x5a);
    for (size_t i = 0; i < 4; i++) assert_true(scales[i] == 0x5a5a && zeros[i] == 0x5a);
    assert_true(signal == 5 && noise == 5);
}

static void quantize(void **state) {
    (void)state;
    float w[4 * 64];
    for (int i = 0; i < 256; i++) w[i] = (float)(i % 17) - 8;
    w4a16_quantize_options options, base;
    w4a16_quantize_options_init(&base);
    base.group_size = -1;
    base.asymmetric = 1;
    options = base;
    const arguments good = {&options, w, W4A16_FP32, 4, 64, 64};
    arguments call = good;
    double *no = NULL;
    REFUSED(w4a16_quantize(&options, w, W4A16_FP32, 4, 64, 64, NULL, scales, zeros, no, no),
            W4A16_ERROR_INVALID_ARGUMENT, "codes");
    REFUSED(w4a16_quantize(&options, w, W4A16_FP32, 4, 64, 64, codes, NULL, zeros, no, no),
            W4A16_ERROR_INVALID_ARGUMENT, "scales");
    REFUSED(w4a16_quantize(&options, w, W4A16_FP32, 4, 64, 64, codes, scales, NULL, no, no),
            W4A16_ERROR_INVALID_ARGUMENT, "zeros");
    call.w = NULL;
    refuse_quantize(&call, "w is");
    static const int dtypes[] = {W4A16_DTYPE_NONE, W4A16_FP64, W4A16_INT8, -1, 44};
    for (size_t i = 0; i < COUNT(dtypes); i++) {
        call = good, call.dtype = (w4a16_dtype)dtypes[i];
        refuse_quantize(&call, "dtype");
        options = base, options.scale_dtype = (w4a16_dtype)dtypes[i];
        refuse_quantize(&good, "scale_dtype");
        options = base;
    }
    static const int64_t sizes[] = {0, -1, INT64_MIN, INT64_MAX};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        call = good, call.n = sizes[i];
        refuse_quantize(&call, "n is");
        call = good, call.k = sizes[i];
        refuse_quantize(&call, "k is");
    }
    static const int64_t strides[] = {63, 0, -64, INT64_MIN};
    for (size_t i = 0; i < COUNT(strides); i++) {
        call = good, call.stride = strides[i];
        refuse_quantize(&call, "stride");
    }
    static const int64_t groups[] = {0, 33, 16, -2, INT64_MIN};
    for (size_t i = 0; i < COUNT(groups); i++) {
        options = base, options.group_size = groups[i];
        refuse_quantize(&good, "group_size");
    }
    options = base, options.struct_size = 1;
    refuse_quantize(&good, "struct_size");
    options = base, options.method = (w4a16_quantize_method)7;
    refuse_quantize(&good, "method");
    options = base, options.threads = -1;
    refuse_quantize(&good, "threads");
    options = base;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        float kept = w[3 * 64 + 63];
        w[3 * 64 + 63] = bad[i];
        refuse_quantize(&good, "w[3");
        w[3 * 64 + 63] = kept;
    }
    w4a16_quantize_options_init(NULL);
}

static void checkpoint_quantize(void **state) {
    (void)state;
    const char *input = in_folder("plain.safetensors"), *output = in_folder("output");
    w4a16_quantize_options options, base;
    w4a16_quantize_options_init(&base);
    options = base;
    REFUSED(w4a16_checkpoint_quantize(NULL, output, &options), W4A16_ERROR_INVALID_ARGUMENT, "input");
    REFUSED(w4a16_checkpoint_quantize(input, NULL, &options), W4A16_ERROR_INVALID_ARGUMENT, "output");
    REFUSED(w4a16_checkpoint_quantize(in_folder("none"), output, &options), W4A16_ERROR_NOT_FOUND, "none");
    REFUSED(w4a16_checkpoint_quantize(input, in_folder("none/output"), &options), W4A16_ERROR_NOT_FOUND, "none/output");
    REFUSED(w4a16_checkpoint_quantize(input, input, &options), W4A16_ERROR_INVALID_ARGUMENT, input);
    options.struct_size = 0;
    REFUSED(w4a16_checkpoint_quantize(input, output, &options), W4A16_ERROR_INVALID_ARGUMENT, "struct_size");
    static const int formats[] = {W4A16_FORMAT_NONE, 4, -1};
    for (size_t i = 0; i < 3; i++) {
        options = base, options.format = (w4a16_format)formats[i];
        REFUSED(w4a16_checkpoint_quantize(input, output, &options), W4A16_ERROR_INVALID_ARGUMENT, "format");
    }
    options = base, options.group_size = 33;
    REFUSED(w4a16_checkpoint_quantize(input, output, &options), W4A16_ERROR_INVALID_ARGUMENT, "group_size");
    options = base, options.method = (w4a16_quantize_method)9;
    REFUSED(w4a16_checkpoint_quantize(input, output, &options), W4A16_ERROR_INVALID_ARGUMENT, "method");
    options = base, options.scale_dtype = W4A16_FP64;
    REFUSED(w4a16_checkpoint_quantize(input, output, &options), W4A16_ERROR_INVALID_ARGUMENT, "scale_dtype");
    options = base, options.threads = -5;
    REFUSED(w4a16_checkpoint_quantize(input, output, &options), W4A16_ERROR_INVALID_ARGUMENT, "threads");
    options = base, options.include_count = 1;
    REFUSED(w4a16_checkpoint_quantize(input, output, &options), W4A16_ERROR_INVALID_ARGUMENT, "include");
    options = base, options.exclude_count = 1;
    REFUSED(w4a16_checkpoint_quantize(input, output, &options), W4A16_ERROR_INVALID_ARGUMENT, "exclude");
    const char *none[] = {NULL};
    options = base, options.include = none, options.include_count = 1;
    REFUSED(w4a16_checkpoint_quantize(input, output, &options), W4A16_ERROR_INVALID_ARGUMENT, "include");
    /* What is quantised already holds nothing to quantise. */
    options = base;
    assert_int_not_equal(w4a16_checkpoint_quantize(in_folder("quantised.safetensors"), output, &options), W4A16_OK);
    assert_no_output();
}

static void checkpoint_convert(void **state) {
    (void)state;
    const char *input = in_folder("quantised.safetensors"), *output = in_folder("output");
    w4a16_convert_options options, base;
    w4a16_convert_options_init(&base);
    base.format = W4A16_FORMAT_GPTQ;
    options = base;
    REFUSED(w4a16_checkpoint_convert(NULL, output, &options), W4A16_ERROR_INVALID_ARGUMENT, "input");
    REFUSED(w4a16_checkpoint_convert(input, NULL, &options), W4A16_ERROR_INVALID_ARGUMENT, "output");
    REFUSED(w4a16_checkpoint_convert(input, output, NULL), W4A16_ERROR_INVALID_ARGUMENT, "options");
    REFUSED(w4a16_checkpoint_convert(in_folder("none"), output, &options), W4A16_ERROR_NOT_FOUND, "none");
    options.struct_size = 0;
    REFUSED(w4a16_checkpoint_convert(input, output, &options), W4A16_ERROR_INVALID_ARGUMENT, "struct_size");
    options = base, options.format = W4A16_FORMAT_NONE;
    REFUSED(w4a16_checkpoint_convert(input, output, &options), W4A16_ERROR_INVALID_ARGUMENT, "format");
    options = base, options.format = (w4a16_format)99;
    REFUSED(w4a16_checkpoint_convert(input, output, &options), W4A16_ERROR_INVALID_ARGUMENT, "format");
    options = base;
    REFUSED(w4a16_checkpoint_convert(input, in_folder("plain.safetensors"), &options), W4A16_ERROR_EXISTS, "plain");
    assert_no_output();
    w4a16_convert_options_init(NULL);
}

static void format_names(void **state) {
    (void)state;
    assert_string_equal(w4a16_format_name(W4A16_FORMAT_AWQ), "awq");
    assert_string_equal(w4a16_format_name(W4A16_FORMAT_GPTQ), "gptq");
    assert_string_equal(w4a16_format_name(W4A16_FORMAT_COMPRESSED_TENSORS), "compressed-tensors");
    static const int unknown[] = {0, 4, -1, 1000};
    for (size_t i = 0; i < 4; i++) assert_string_equal(w4a16_format_name((w4a16_format)unknown[i]), "none");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensor_file_open),    cmocka_unit_test(tensor_file_read),
        cmocka_unit_test(tensor_file_write),   cmocka_unit_test(checkpoint_open),
        cmocka_unit_test(checkpoint_use),      cmocka_unit_test(quantize),
        cmocka_unit_test(checkpoint_quantize), cmocka_unit_test(checkpoint_convert),
        cmocka_unit_test(format_names),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
