/* SPDX-License-Identifier: Apache-2.0
 * Checkpoints: random matrices written in each format and imported again must come back bit by bit; folders whose
 * index or config is wrong must be refused with a text. */
#include "core/half.h"
#include "core/memory.h"
#include "format/checkpoint.h"
#include "format/folder.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static void assert_text(const char *part) {
    if (!strstr(w4a16_last_error(), part)) fail_msg("'%s' is missing in: %s", part, w4a16_last_error());
    assert_null(strchr(w4a16_last_error(), '\n'));
}

static void assert_status(w4a16_status found, w4a16_status expected) {
    if (found != expected) fail_msg("status %d, expected %d: %s", found, expected, w4a16_last_error());
}

/* ---- Round trips ---------------------------------------------------------------------------------------------- */

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

typedef struct sample {
    int64_t n, k, group_size;
    w4a16_dtype scale_dtype;
    w4a16_zero_kind zero_kind;
    int has_k_order;
} sample;

/** A random matrix; scales are such that fp16 and bf16 hold them too. */
static void make_random(const sample *shape, w4_matrix *matrix) {
    assert_status(w4_matrix_create(shape->n, shape->k, shape->group_size, shape->scale_dtype, shape->zero_kind,
                                   shape->has_k_order, matrix),
                  W4A16_OK);
    int64_t row_bytes = w4_matrix_row_bytes(matrix), entries = matrix->n * matrix->groups;
    for (int64_t i = 0; i < matrix->n * row_bytes; i++) matrix->codes[i] = (uint8_t)next_random();
    for (int64_t row = 0; row < matrix->n && (matrix->k & 1); row++) matrix->codes[(row + 1) * row_bytes - 1] &= 15;
    for (int64_t i = 0; i < entries; i++) {
        double scale = (double)(1 + next_random() % 255) / 1024 * (next_random() & 1 ? 1 : -1);
        w4_store_double(matrix->scales, matrix->scale_dtype, (size_t)i, scale);
        if (matrix->zeros) ((uint8_t *)matrix->zeros)[i] = (uint8_t)(next_random() % 16);
    }
    if (matrix->zeros) ((uint8_t *)matrix->zeros)[0] = 3; /* not all of them 8 */
    if (!matrix->k_order) return;
    for (int64_t j = 0; j < matrix->k; j++) matrix->k_order[j] = (int32_t)j;
    for (int64_t j = matrix->k - 1; j > 0; j--) {
        int64_t other = (int64_t)(next_random() % (uint64_t)(j + 1));
        int32_t swapped = matrix->k_order[j];
        matrix->k_order[j] = matrix->k_order[other];
        matrix->k_order[other] = swapped;
    }
    /* Import sorts stably: within a group columns stand in ascending order. */
    for (int64_t start = 0; start < matrix->k; start += matrix->group_size)
        for (int64_t i = start; i < w4_minimum(start + matrix->group_size, matrix->k); i++)
            for (int64_t j = i; j > start && matrix->k_order[j - 1] > matrix->k_order[j]; j--) {
                int32_t swapped = matrix->k_order[j];
                matrix->k_order[j] = matrix->k_order[j - 1];
                matrix->k_order[j - 1] = swapped;
            }
}

static void copy_matrix(const w4_matrix *source, w4_matrix *target) {
    assert_status(w4_matrix_create(source->n, source->k, source->group_size, source->scale_dtype, source->zero_kind,
                                   source->k_order != NULL, target),
                  W4A16_OK);
    size_t entries = (size_t)(source->n * source->groups);
    memcpy(target->codes, source->codes, (size_t)(source->n * w4_matrix_row_bytes(source)));
    memcpy(target->scales, source->scales, entries * w4a16_dtype_size(source->scale_dtype));
    if (source->zeros) memcpy(target->zeros, source->zeros, entries * w4_zero_size(source->zero_kind));
    if (source->k_order) memcpy(target->k_order, source->k_order, (size_t)source->k * 4);
}

static void assert_same(const w4_matrix *a, const w4_matrix *b) {
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->k, b->k);
    assert_int_equal(a->group_size, b->group_size);
    assert_int_equal(a->scale_dtype, b->scale_dtype);
    assert_int_equal(a->zero_kind, b->zero_kind);
    assert_int_equal(a->k_order != NULL, b->k_order != NULL);
    size_t entries = (size_t)(a->n * a->groups);
    if (a->k_order) assert_memory_equal(a->k_order, b->k_order, (size_t)a->k * 4);
    assert_memory_equal(a->codes, b->codes, (size_t)(a->n * w4_matrix_row_bytes(a)));
    assert_memory_equal(a->scales, b->scales, entries * w4a16_dtype_size(a->scale_dtype));
    if (a->zeros) assert_memory_equal(a->zeros, b->zeros, entries * w4_zero_size(a->zero_kind));
}

/** A rewrite that puts ready-made matrices in the place of m0.weight, m1.weight, ... */
typedef struct source {
    const w4_matrix *matrices;
    size_t count;
    bool break_promise;
} source;

static w4a16_status select_sample(void *state, const char *module, const w4a16_tensor *tensor, size_t index,
                                  bool *selected, w4_matrix *shape) {
    const source *from = state;
    size_t number = (size_t)atoi(module + 1);
    (void)index;
    if (module[0] != 'm' || number >= from->count) return W4A16_OK;
    assert_int_equal(tensor->shape[0], from->matrices[number].n);
    *selected = true;
    *shape = from->matrices[number];
    return W4A16_OK;
}

static w4a16_status make_sample(void *state, const char *module, const w4a16_tensor *tensor, size_t index,
                                w4_matrix *matrix, double *signal, double *noise) {
    const source *from = state;
    (void)tensor, (void)index;
    *signal = 1;
    *noise = 0.001;
    const w4_matrix *wanted = &from->matrices[atoi(module + 1)];
    if (from->break_promise)
        return w4_matrix_create(wanted->n, wanted->k, wanted->group_size, W4A16_FP32, wanted->zero_kind, 0, matrix);
    copy_matrix(wanted, matrix);
    return W4A16_OK;
}

static void write_floats(const char *path, const w4_matrix *matrices, size_t count) {
    w4a16_tensor tensors[8] = {{.name = NULL}};
    char names[8][32];
    for (size_t i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "m%zu.weight", i);
        void *zeros = calloc((size_t)(matrices[i].n * matrices[i].k), 2);
        assert_non_null(zeros);
        tensors[i] = (w4a16_tensor){.name = names[i],
                                    .dtype = W4A16_FP16,
                                    .dimensions = 2,
                                    .shape = {matrices[i].n, matrices[i].k},
                                    .data = zeros};
    }
    assert_status(w4a16_tensor_file_write(path, tensors, count, 1), W4A16_OK);
    for (size_t i = 0; i < count; i++) free((void *)(uintptr_t)tensors[i].data);
}

static w4a16_status write_quantised(void **state, const w4_matrix *matrices, size_t count, w4a16_format format) {
    const char *input = folder_path(*state, "in.safetensors"), *output = folder_path(*state, "out.safetensors");
    write_floats(input, matrices, count);
    source from = {matrices, count, false};
    w4_rewrite rewrite = {.input = input,
                          .output = output,
                          .overwrite = true,
                          .format = format,
                          .select = select_sample,
                          .make = make_sample,
                          .state = &from};
    return w4_checkpoint_rewrite(&rewrite);
}

static void round_trip(void **state, const sample *shape, w4a16_format format) {
    w4_matrix before, after;
    make_random(shape, &before);
    assert_status(write_quantised(state, &before, 1, format), W4A16_OK);
    w4a16_checkpoint *checkpoint;
    assert_status(w4a16_checkpoint_open(folder_path(*state, "out.safetensors"), &checkpoint), W4A16_OK);
    assert_int_equal(w4a16_checkpoint_count(checkpoint), 1);
    w4a16_module_info info = {.struct_size = sizeof info};
    assert_status(w4a16_checkpoint_module(checkpoint, 0, &info), W4A16_OK);
    assert_string_equal(info.name, "m0");
    assert_int_equal(info.format, format);
    assert_int_equal(info.zero_kind, shape->zero_kind);
    assert_int_equal(info.act_order, shape->has_k_order);
    assert_status(w4_checkpoint_import(checkpoint, 0, &after), W4A16_OK);
    if (format == W4A16_FORMAT_AWQ && before.scale_dtype != W4A16_FP16) { /* AWQ holds fp16: the values must agree */
        assert_int_equal(after.scale_dtype, W4A16_FP16);
        for (int64_t i = 0; i < before.n * before.groups; i++)
            assert_true(w4_load_float(before.scales, before.scale_dtype, (size_t)i) ==
                        w4_load_float(after.scales, W4A16_FP16, (size_t)i));
    } else {
        assert_same(&before, &after);
    }
    /* The other decoder must agree with the canonical form. */
    double *w = malloc((size_t)(before.n * before.k) * sizeof *w);
    assert_non_null(w);
    assert_status(w4a16_checkpoint_dequantize(checkpoint, "m0", W4A16_FP64, w, before.k), W4A16_OK);
    for (int64_t row = 0; row < before.n; row++)
        for (int64_t j = 0; j < before.k; j++) {
            int64_t group = j / before.group_size, column = before.k_order ? before.k_order[j] : j;
            double scale = w4_load_float(before.scales, before.scale_dtype, (size_t)(row * before.groups + group));
            double want = (w4_matrix_code(&before, row, j) - w4_matrix_zero(&before, row, group)) * scale;
            if (w[row * before.k + column] != want)
                fail_msg("w[%" PRId64 ", %" PRId64 "] is %g, not %g", row, column, w[row * before.k + column], want);
        }
    free(w);
    w4_matrix_free(&before);
    w4_matrix_free(&after);
    w4a16_checkpoint_close(checkpoint);
}

static void test_round_trips(void **state) {
    static const w4a16_format formats[] = {W4A16_FORMAT_COMPRESSED_TENSORS, W4A16_FORMAT_GPTQ, W4A16_FORMAT_AWQ};
    static const w4a16_dtype dtypes[] = {W4A16_FP16, W4A16_BF16, W4A16_FP32};
    static const int64_t shapes[][3] = {{8, 32, 32},  {16, 160, 32},  {8, 72, -1},    {144, 512, 128},
                                        {5, 64, 32},  {9, 1001, -1},  {1, 1, -1},     {16, 160, 128},
                                        {24, 33, -1}, {264, 264, -1}, {1, 4096, 256}, {8, 40, 64}};
    int tried = 0;
    for (size_t f = 0; f < 3; f++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int variant = 0; variant < 12; variant++) {
                sample shape = {shapes[s][0],
                                shapes[s][1],
                                shapes[s][2],
                                dtypes[variant % 3],
                                variant / 3 % 2 ? W4A16_ZERO_INTEGER : W4A16_ZERO_SYMMETRIC,
                                variant / 6};
                bool grouped = shape.group_size != -1 && shape.group_size < shape.k;
                if (shape.has_k_order && !grouped) continue; /* one group: no order is left to keep */
                w4_matrix asked = {.n = shape.n,
                                   .k = shape.k,
                                   .group_size = shape.group_size,
                                   .scale_dtype = shape.scale_dtype,
                                   .zero_kind = shape.zero_kind,
                                   .k_order = shape.has_k_order ? (int32_t[]){0} : NULL};
                if (w4_format_check(formats[f], &asked) != W4A16_OK) continue;
                round_trip(state, &shape, formats[f]);
                tried++;
            }
    assert_int_equal(tried, 192); /* 90 compressed-tensors, 60 GPTQ, 42 AWQ */
}

static void test_format_check(void **state) {
    (void)state;
    static const struct {
        w4a16_format format;
        int64_t n, k, group_size;
        w4a16_zero_kind zero_kind;
        int order;
        w4a16_status status;
        const char *text;
    } cases[] = {
        {W4A16_FORMAT_AWQ, 8, 64, 32, W4A16_ZERO_INTEGER, 0, W4A16_OK, NULL},
        {W4A16_FORMAT_AWQ, 12, 64, 32, W4A16_ZERO_INTEGER, 0, W4A16_ERROR_UNSUPPORTED, "N = 12"},
        {W4A16_FORMAT_AWQ, 8, 64, 32, W4A16_ZERO_INTEGER, 1, W4A16_ERROR_UNSUPPORTED, "act-order"},
        {W4A16_FORMAT_AWQ, 8, 80, 32, W4A16_ZERO_INTEGER, 0, W4A16_ERROR_UNSUPPORTED, "K = 80"},
        {W4A16_FORMAT_AWQ, 8, 81, -1, W4A16_ZERO_INTEGER, 0, W4A16_OK, NULL},
        {W4A16_FORMAT_GPTQ, 8, 80, 32, W4A16_ZERO_INTEGER, 1, W4A16_OK, NULL},
        {W4A16_FORMAT_GPTQ, 8, 81, -1, W4A16_ZERO_INTEGER, 0, W4A16_ERROR_UNSUPPORTED, "K = 81"},
        {W4A16_FORMAT_GPTQ, 9, 80, -1, W4A16_ZERO_INTEGER, 0, W4A16_ERROR_UNSUPPORTED, "N = 9"},
        {W4A16_FORMAT_COMPRESSED_TENSORS, 9, 81, -1, W4A16_ZERO_INTEGER, 0, W4A16_OK, NULL},
        {W4A16_FORMAT_COMPRESSED_TENSORS, 9, 80, 32, W4A16_ZERO_INTEGER, 0, W4A16_ERROR_UNSUPPORTED, "K = 80"},
        {W4A16_FORMAT_COMPRESSED_TENSORS, 9, 80, 128, W4A16_ZERO_INTEGER, 0, W4A16_OK, NULL},
        {W4A16_FORMAT_COMPRESSED_TENSORS, 8, 64, 32, W4A16_ZERO_FLOAT, 0, W4A16_ERROR_UNSUPPORTED, "float"},
        {W4A16_FORMAT_NONE, 8, 64, 32, W4A16_ZERO_INTEGER, 0, W4A16_ERROR_INVALID_ARGUMENT, "format is 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t order = 0;
        w4_matrix shape = {.n = cases[i].n,
                           .k = cases[i].k,
                           .group_size = cases[i].group_size,
                           .scale_dtype = W4A16_FP16,
                           .zero_kind = cases[i].zero_kind,
                           .k_order = cases[i].order ? &order : NULL};
        assert_status(w4_format_check(cases[i].format, &shape), cases[i].status);
        if (cases[i].text) assert_text(cases[i].text);
    }
}

static void test_rewrite_refuses(void **state) {
    sample shape = {8, 64, 32, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0};
    w4_matrix matrix;
    make_random(&shape, &matrix);
    const char *input = folder_path(*state, "in.safetensors"), *output = folder_path(*state, "out.safetensors");
    write_floats(input, &matrix, 1);
    source nothing = {&matrix, 0, false}, liar = {&matrix, 1, true};
    w4_rewrite rewrite = {.input = input,
                          .output = output,
                          .format = W4A16_FORMAT_GPTQ,
                          .select = select_sample,
                          .make = make_sample,
                          .state = &nothing};
    assert_status(w4_checkpoint_rewrite(&rewrite), W4A16_ERROR_NOT_FOUND);
    assert_text("no module was selected");
    rewrite.state = &liar;
    assert_status(w4_checkpoint_rewrite(&rewrite), W4A16_ERROR_INTERNAL);
    assert_text("m0");
    rewrite.convert = true;
    assert_status(w4_checkpoint_rewrite(&rewrite), W4A16_ERROR_NOT_FOUND);
    assert_text("no quantised module");
    rewrite.format = (w4a16_format)9;
    assert_status(w4_checkpoint_rewrite(&rewrite), W4A16_ERROR_INVALID_ARGUMENT);
    assert_text("format is 9");
    assert_int_equal(count_entries(*state), 1);
    assert_status(w4a16_checkpoint_convert(NULL, output, NULL), W4A16_ERROR_INVALID_ARGUMENT);
    w4a16_convert_options options;
    w4a16_convert_options_init(&options);
    options.struct_size = 3;
    assert_status(w4a16_checkpoint_convert(input, output, &options), W4A16_ERROR_INVALID_ARGUMENT);
    assert_text("struct_size is 3");
    w4_matrix_free(&matrix);
}

/* ---- Folders -------------------------------------------------------------------------------------------------- */

static void write_shard(void **state, const char *name, const char *tensor) {
    const float value = 1;
    const w4a16_tensor entry = {.name = tensor, .dtype = W4A16_FP32, .data = &value};
    assert_status(w4a16_tensor_file_write(folder_path(*state, name), &entry, 1, 1), W4A16_OK);
}

static void assert_open_fails(const char *path, w4a16_status status, const char *first, const char *second) {
    w4a16_checkpoint *checkpoint = (void *)1;
    assert_status(w4a16_checkpoint_open(path, &checkpoint), status);
    assert_ptr_equal(checkpoint, (void *)1);
    assert_text(first);
    assert_text(second);
}

static void test_index_errors(void **state) {
    static const struct {
        const char *index;
        w4a16_status status;
        const char *text;
    } cases[] = {
        {"", W4A16_ERROR_FORMAT, "JSON"},
        {"{", W4A16_ERROR_FORMAT, "JSON"},
        {"[]", W4A16_ERROR_FORMAT, "weight_map"},
        {"{\"weight_map\":[]}", W4A16_ERROR_FORMAT, "weight_map"},
        {"{\"weight_map\":{}}", W4A16_ERROR_FORMAT, "empty"},
        {"{\"weight_map\":{\"x\":1}}", W4A16_ERROR_FORMAT, "'x'"},
        {"{\"weight_map\":{\"x\":\"\"}}", W4A16_ERROR_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"x\":\"..\"}}", W4A16_ERROR_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"x\":\"../a.safetensors\"}}", W4A16_ERROR_FORMAT, "'../a.safetensors'"},
        {"{\"weight_map\":{\"x\":\"/etc/passwd\"}}", W4A16_ERROR_FORMAT, "'/etc/passwd'"},
        {"{\"weight_map\":{\"x\":\"a\\nb\"}}", W4A16_ERROR_FORMAT, "plain file name"},
        {"{\"weight_map\":{\"x\":\"a.safetensors\",\"x\":\"a.safetensors\"}}", W4A16_ERROR_FORMAT, "duplicate"},
        {"{\"weight_map\":{\"x\":\"gone.safetensors\"}}", W4A16_ERROR_NOT_FOUND, "'gone.safetensors'"},
        {"{\"weight_map\":{\"y\":\"a.safetensors\"}}", W4A16_ERROR_FORMAT, "'y'"},
        {"{\"weight_map\":{\"x\":\"a.safetensors\",\"z\":\"bad.safetensors\"}}", W4A16_ERROR_FORMAT, "bad.safetensors"},
    };
    write_shard(state, "a.safetensors", "x");
    write_text(folder_path(*state, "bad.safetensors"), "not one");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(folder_path(*state, "model.safetensors.index.json"), cases[i].index);
        assert_open_fails(*state, cases[i].status, "safetensors", cases[i].text);
    }
    write_shard(state, "b.safetensors", "x");
    write_text(folder_path(*state, "model.safetensors.index.json"),
               "{\"weight_map\":{\"x\":\"a.safetensors\",\"x2\":\"b.safetensors\"}}");
    assert_open_fails(*state, W4A16_ERROR_FORMAT, "'x2'", "b.safetensors");
}

static void test_tensor_in_two_shards(void **state) {
    const float values[2] = {1, 2};
    const w4a16_tensor both[] = {{.name = "x", .dtype = W4A16_FP32, .data = &values[0]},
                                 {.name = "y", .dtype = W4A16_FP32, .data = &values[1]}};
    write_shard(state, "a.safetensors", "x");
    assert_status(w4a16_tensor_file_write(folder_path(*state, "b.safetensors"), both, 2, 0), W4A16_OK);
    write_text(folder_path(*state, "model.safetensors.index.json"),
               "{\"weight_map\":{\"x\":\"a.safetensors\",\"y\":\"b.safetensors\"}}");
    assert_open_fails(*state, W4A16_ERROR_FORMAT, "'x'", "too");
}

static void test_which_files(void **state) {
    w4a16_checkpoint *checkpoint;
    assert_open_fails(*state, W4A16_ERROR_NOT_FOUND, "0 .safetensors files", "model.safetensors");
    assert_open_fails(folder_path(*state, "no"), W4A16_ERROR_NOT_FOUND, "no", "No such file");
    write_shard(state, "one.safetensors", "x");
    assert_status(w4a16_checkpoint_open(*state, &checkpoint), W4A16_OK);
    assert_int_equal(w4a16_checkpoint_count(checkpoint), 0);
    size_t index;
    assert_status(w4a16_checkpoint_find(checkpoint, "x", &index), W4A16_ERROR_NOT_FOUND);
    assert_text("not quantised");
    w4a16_checkpoint_close(checkpoint);
    w4a16_checkpoint_close(NULL);
    write_shard(state, "two.safetensors", "x");
    assert_open_fails(*state, W4A16_ERROR_FORMAT, "2 .safetensors files", "exactly one");
    write_shard(state, "model.safetensors", "x");
    assert_status(w4a16_checkpoint_open(*state, &checkpoint), W4A16_OK);
    w4a16_checkpoint_close(checkpoint);
}

static void test_config_errors(void **state) {
    static const struct {
        const char *config, *text;
    } cases[] = {
        {"{", "JSON"},
        {"{\"quantization_config\": 3}", "no object"},
        {"{\"quantization_config\": {\"quant_method\": 3}}", "'quant_method' is no text"},
        {"{\"quantization_config\": {\"bits\": \"4\"}}", "'bits' is no integer"},
        {"{\"quantization_config\": {\"bits\": 99}}", "bits is 99"},
        {"{\"quantization_config\": {\"group_size\": 0}}", "group_size is 0"},
        {"{\"quantization_config\": {\"group_size\": 1.5}}", "'group_size' is no integer"},
        {"{\"quantization_config\": {\"sym\": 1}}", "'sym' is no true or false"},
        {"{\"quantization_config\": {\"config_groups\": []}}", "'config_groups' is no object"},
        {"{\"quantization_config\": {\"config_groups\": {\"a\": {\"weights\": 4}}}}", "'weights' is no object"},
    };
    write_shard(state, "model.safetensors", "x");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(folder_path(*state, "config.json"), cases[i].config);
        assert_open_fails(*state, W4A16_ERROR_FORMAT, "config.json", cases[i].text);
    }
}

static void test_arguments(void **state) {
    sample shapes[3] = {{8, 64, 32, W4A16_FP16, W4A16_ZERO_SYMMETRIC, 0},
                        {8, 64, 32, W4A16_FP16, W4A16_ZERO_INTEGER, 0},
                        {8, 64, 32, W4A16_FP16, W4A16_ZERO_INTEGER, 1}};
    w4_matrix matrices[3], imported;
    for (int i = 0; i < 3; i++) make_random(&shapes[i], &matrices[i]);
    assert_status(write_quantised(state, matrices, 3, W4A16_FORMAT_COMPRESSED_TENSORS), W4A16_OK);
    w4a16_checkpoint *checkpoint;
    assert_status(w4a16_checkpoint_open(folder_path(*state, "out.safetensors"), &checkpoint), W4A16_OK);
    static const char *const names[] = {"m2", "m2.weight", "m2.weight_packed", "m2.weight_g_idx", "m2.qweight"};
    size_t index = 77;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_status(w4a16_checkpoint_find(checkpoint, names[i], &index), W4A16_OK);
        assert_int_equal(index, 2);
    }
    /* Modules of one output share their optional tensors; each still comes back as it was. */
    for (size_t i = 0; i < 3; i++) {
        assert_status(w4_checkpoint_import(checkpoint, i, &imported), W4A16_OK);
        assert_same(&matrices[i], &imported);
        w4_matrix_free(&imported);
        w4_matrix_free(&matrices[i]);
    }
    assert_status(w4a16_checkpoint_find(checkpoint, "m", &index), W4A16_ERROR_NOT_FOUND);
    assert_status(w4a16_checkpoint_find(checkpoint, "m22", &index), W4A16_ERROR_NOT_FOUND);
    assert_text("such as 'm0'");
    assert_status(w4_checkpoint_import(checkpoint, 3, &imported), W4A16_ERROR_NOT_FOUND);
    w4a16_module_info info = {.struct_size = sizeof info};
    assert_status(w4a16_checkpoint_module(checkpoint, 3, &info), W4A16_ERROR_NOT_FOUND);
    info.struct_size = 0;
    assert_status(w4a16_checkpoint_module(checkpoint, 0, &info), W4A16_ERROR_INVALID_ARGUMENT);
    float w[8 * 64];
    assert_status(w4a16_checkpoint_dequantize(checkpoint, "m0", W4A16_FP32, w, 63), W4A16_ERROR_INVALID_ARGUMENT);
    assert_text("stride is 63");
    assert_status(w4a16_checkpoint_dequantize(checkpoint, "m0", W4A16_INT8, w, 64), W4A16_ERROR_INVALID_ARGUMENT);
    assert_status(w4a16_checkpoint_dequantize(checkpoint, "m0", W4A16_FP32, NULL, 64), W4A16_ERROR_INVALID_ARGUMENT);
    assert_status(w4a16_checkpoint_dequantize(checkpoint, "q", W4A16_FP32, w, 64), W4A16_ERROR_NOT_FOUND);
    assert_status(w4a16_checkpoint_dequantize(NULL, "q", W4A16_FP32, w, 64), W4A16_ERROR_INVALID_ARGUMENT);
    w4a16_checkpoint_close(checkpoint);
    assert_string_equal(w4a16_format_name(W4A16_FORMAT_GPTQ), "gptq");
    assert_string_equal(w4a16_format_name((w4a16_format)99), "none");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_create, folder_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_round_trips),          TEST(test_format_check), TEST(test_rewrite_refuses), TEST(test_index_errors),
        TEST(test_tensor_in_two_shards), TEST(test_which_files),  TEST(test_config_errors),   TEST(test_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
