/* SPDX-License-Identifier: Apache-2.0
 * The safetensors reader on damaged and hostile files, and the writer. */
#include "format/folder.h"
#include "format/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *path_of(void **state) {
    return folder_path(*state, "t.safetensors");
}

static void assert_text(const char *part) {
    if (!strstr(w4a16_last_error(), part)) fail_msg("'%s' is missing in: %s", part, w4a16_last_error());
    assert_null(strchr(w4a16_last_error(), '\n'));
}

/** Opening must fail, name the file and leave the output alone. */
static void assert_refused(void **state, w4a16_status status, const char *part) {
    w4a16_tensor_file *file = (void *)1;
    w4a16_status found = w4a16_tensor_file_open(path_of(state), &file);
    if (found != status) fail_msg("status %d, expected %d: %s", found, status, w4a16_last_error());
    assert_ptr_equal(file, (void *)1);
    assert_text("t.safetensors");
    assert_text(part);
}

static void test_damaged_headers(void **state) {
    static const struct {
        const char *header;
        size_t data;
        w4a16_status status;
        const char *text;
    } cases[] = {
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}", 4, W4A16_ERROR_FORMAT, "JSON"},
        {"[]", 0, W4A16_ERROR_FORMAT, "no JSON object"},
        {"{\"a\":1}", 0, W4A16_ERROR_FORMAT, "'a'"},
        {"{\"\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, W4A16_ERROR_FORMAT, "empty name"},
        {"{\"a\\u0001b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, W4A16_ERROR_FORMAT,
         "control character"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,4]}}", 4, W4A16_ERROR_FORMAT, "dtype"},
        {"{\"a\":{\"dtype\":3,\"shape\":[2],\"data_offsets\":[0,4]}}", 4, W4A16_ERROR_FORMAT, "dtype"},
        {"{\"a\":{\"dtype\":\"F17\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, W4A16_ERROR_FORMAT, "F17"},
        {"{\"a\":{\"dtype\":\"F\\n7\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, W4A16_ERROR_FORMAT, "dtype"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[8],\"data_offsets\":[0,4]}}", 4, W4A16_ERROR_UNSUPPORTED, "F4"},
        {"{\"a\":{\"dtype\":\"F16\",\"data_offsets\":[0,4]}}", 4, W4A16_ERROR_FORMAT, "shape"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[-2],\"data_offsets\":[0,4]}}", 4, W4A16_ERROR_FORMAT, "shape[0]"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2.0],\"data_offsets\":[0,4]}}", 4, W4A16_ERROR_FORMAT, "shape[0]"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,4]}}", 4, W4A16_ERROR_UNSUPPORTED,
         "9 dimensions"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[0,4]}}", 4, W4A16_ERROR_FORMAT, "[3]"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}", 4, W4A16_ERROR_FORMAT,
         "2^64"},
        /* 2 * 2^63 is 0 modulo 2^64 */
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[4611686018427387904,2],\"data_offsets\":[0,0]}}", 0, W4A16_ERROR_FORMAT,
         "2^64"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]}}", 4, W4A16_ERROR_FORMAT,
         "JSON"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2]}}", 4, W4A16_ERROR_FORMAT, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0]}}", 4, W4A16_ERROR_FORMAT, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[4,0]}}", 4, W4A16_ERROR_FORMAT, "[4, 0]"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[-4,0]}}", 4, W4A16_ERROR_FORMAT, "[-4, 0]"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[4,8]}}", 4, W4A16_ERROR_FORMAT, "[4, 8]"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[2,6]}}", 6, W4A16_ERROR_FORMAT, "no tensor"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}", 6, W4A16_ERROR_FORMAT, "last 2 bytes"},
        {"{}", 1, W4A16_ERROR_FORMAT, "last 1 bytes"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[2,6]}}",
         6, W4A16_ERROR_FORMAT, "overlaps"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[6,10]}}",
         10, W4A16_ERROR_FORMAT, "'b'"},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[4,8]}}",
         8, W4A16_ERROR_FORMAT, "duplicate"},
        {"{\"__metadata__\":[]}", 0, W4A16_ERROR_FORMAT, "__metadata__"},
        {"{\"__metadata__\":{\"k\":1}}", 0, W4A16_ERROR_FORMAT, "'k'"},
        {"{} x", 0, W4A16_ERROR_FORMAT, "JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_raw(path_of(state), cases[i].header, cases[i].data, 0);
        assert_refused(state, cases[i].status, cases[i].text);
    }
}

static void test_lengths(void **state) {
    const char *path = path_of(state);
    assert_refused(state, W4A16_ERROR_NOT_FOUND, "No such file");
    for (size_t size = 0; size < 8; size++) {
        write_bytes(path, "\2\0\0\0\0\0\0", size);
        assert_refused(state, W4A16_ERROR_FORMAT, "at least 8");
    }
    write_raw(path, "{}", 0, 3);
    assert_refused(state, W4A16_ERROR_FORMAT, "truncated");
    write_raw(path, "{}", 0, 1);
    assert_refused(state, W4A16_ERROR_FORMAT, "no JSON object");
    write_raw(path, "{}", 0, UINT64_MAX);
    assert_refused(state, W4A16_ERROR_FORMAT, "18446744073709551615");
    write_raw(path, "{}", 0, 100000001);
    assert_refused(state, W4A16_ERROR_FORMAT, "100000000");
    w4a16_tensor_file *file;
    assert_int_equal(w4a16_tensor_file_open(*state, &file), W4A16_ERROR_IO);
    assert_text("folder");
}

/** Every truncation of a good file is refused. */
static void test_truncations(void **state) {
    const char header[] = "{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}";
    uint8_t bytes[8 + sizeof header - 1 + 4] = {sizeof header - 1};
    memcpy(bytes + 8, header, sizeof header - 1);
    w4a16_tensor_file *file;
    for (size_t size = 0; size < sizeof bytes; size++) {
        uint8_t *exact = malloc(size ? size : 1);
        memcpy(exact, bytes, size);
        assert_int_equal(w4_tensor_file_parse(exact, size, "memory", &file), W4A16_ERROR_FORMAT);
        assert_text("memory");
        free(exact);
    }
    assert_int_equal(w4_tensor_file_parse(bytes, sizeof bytes, "memory", &file), W4A16_OK);
    assert_int_equal(w4a16_tensor_file_count(file), 1);
    w4a16_tensor_file_close(file);
    (void)state;
}

/** A header of nothing but brackets must not exhaust the stack. */
static void test_deep_nesting(void **state) {
    size_t depth = 1000000;
    char *header = malloc(depth + 6);
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', depth);
    header[depth + 5] = 0;
    write_raw(path_of(state), header, 0, 0);
    free(header);
    assert_refused(state, W4A16_ERROR_FORMAT, "JSON");
}

static void test_reading(void **state) {
    write_raw(path_of(state),
              "{\"__metadata__\":{\"k\":\"v\"},"
              "\"late\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[3,7]},"
              "\"none\":{\"dtype\":\"I64\",\"shape\":[0,5],\"data_offsets\":[3,3]},"
              "\"early\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
              "\"single\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[7,15]}}   ",
              15, 0);
    w4a16_tensor_file *file;
    assert_int_equal(w4a16_tensor_file_open(path_of(state), &file), W4A16_OK);
    static const char *const names[] = {"early", "none", "late", "single"};
    w4a16_tensor tensor;
    assert_int_equal(w4a16_tensor_file_count(file), 4);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(w4a16_tensor_file_get(file, i, &tensor), W4A16_OK);
        assert_string_equal(tensor.name, names[i]);
        assert_int_equal(w4a16_tensor_file_find(file, names[i], &tensor), W4A16_OK);
        assert_string_equal(tensor.name, names[i]);
    }
    assert_int_equal(tensor.dtype, W4A16_FP64);
    assert_int_equal(tensor.dimensions, 0);
    assert_int_equal(tensor.bytes, 8);
    assert_string_equal(w4_tensor_file_metadata(file, "k"), "v");
    assert_null(w4_tensor_file_metadata(file, "l"));
    assert_int_equal(w4a16_tensor_file_get(file, 4, &tensor), W4A16_ERROR_NOT_FOUND);
    assert_text("4 tensors");
    assert_int_equal(w4a16_tensor_file_find(file, "lat", &tensor), W4A16_ERROR_NOT_FOUND);
    assert_text("'lat'");
    assert_int_equal(w4a16_tensor_file_get(NULL, 0, &tensor), W4A16_ERROR_INVALID_ARGUMENT);
    assert_int_equal(w4a16_tensor_file_get(file, 0, NULL), W4A16_ERROR_INVALID_ARGUMENT);
    assert_int_equal(w4a16_tensor_file_find(file, NULL, &tensor), W4A16_ERROR_INVALID_ARGUMENT);
    assert_int_equal(w4a16_tensor_file_open(NULL, &file), W4A16_ERROR_INVALID_ARGUMENT);
    w4a16_tensor_file_close(file);
    w4a16_tensor_file_close(NULL);
}

static void test_writing(void **state) {
    const uint8_t bytes[15] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const w4a16_tensor tensors[] = {
        {.name = "z", .dtype = W4A16_UINT8, .dimensions = 1, .shape = {3}, .data = bytes, .bytes = 3},
        {.name = "\xc3\xa9\"\\", .dtype = W4A16_BF16, .dimensions = 2, .shape = {2, 1}, .data = bytes + 3},
        {.name = "none", .dtype = W4A16_INT64, .dimensions = 1, .shape = {0}},
        {.name = "a", .dtype = W4A16_FP64, .data = bytes + 7, .bytes = 8},
    };
    const char *path = path_of(state);
    assert_int_equal(w4a16_tensor_file_write(path, tensors, 4, 0), W4A16_OK);
    assert_int_equal(w4a16_tensor_file_write(path, tensors, 4, 0), W4A16_ERROR_EXISTS);
    assert_int_equal(w4a16_tensor_file_write(path, tensors, 4, 1), W4A16_OK);
    w4a16_tensor_file *file;
    w4a16_tensor tensor;
    assert_int_equal(w4a16_tensor_file_open(path, &file), W4A16_OK);
    assert_int_equal(w4a16_tensor_file_count(file), 4);
    const uint8_t *start = NULL;
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(w4a16_tensor_file_find(file, tensors[i].name, &tensor), W4A16_OK);
        assert_int_equal(tensor.dtype, tensors[i].dtype);
        assert_int_equal(tensor.dimensions, tensors[i].dimensions);
        assert_memory_equal(tensor.shape, tensors[i].shape, sizeof tensor.shape);
        if (tensor.bytes) assert_memory_equal(tensor.data, tensors[i].data, tensor.bytes);
        if (i == 0) start = tensor.data;
    }
    assert_int_equal((uintptr_t)start % 8, 0); /* mapped at a page, so the file's own alignment */
    w4a16_tensor_file_close(file);
    assert_int_equal(w4a16_tensor_file_write(path, NULL, 0, 1), W4A16_OK);
    assert_int_equal(w4a16_tensor_file_open(path, &file), W4A16_OK);
    assert_int_equal(w4a16_tensor_file_count(file), 0);
    w4a16_tensor_file_close(file);
}

static void test_writing_wrong_arguments(void **state) {
    const float value = 1;
    const w4a16_tensor good = {.name = "a", .dtype = W4A16_FP32, .dimensions = 1, .shape = {1}, .data = &value};
    const char *path = path_of(state);
    w4a16_tensor bad[11];
    for (int i = 0; i < 11; i++) bad[i] = good;
    bad[0].name = NULL;
    bad[1].name = "";
    bad[2].name = "a\nb";
    bad[3].name = "__metadata__";
    bad[4].name = "\xff";
    bad[5].dtype = W4A16_DTYPE_NONE;
    bad[6].dimensions = 9;
    bad[7].shape[0] = -1;
    bad[8].bytes = 5;
    bad[9].data = NULL;
    bad[10].dimensions = 2;
    bad[10].shape[0] = bad[10].shape[1] = INT64_C(1) << 40;
    for (int i = 0; i < 11; i++) {
        assert_int_equal(w4a16_tensor_file_write(path, &bad[i], 1, 0), W4A16_ERROR_INVALID_ARGUMENT);
        assert_int_equal(count_entries(*state), 0);
    }
    const w4a16_tensor twice[] = {good, good};
    assert_int_equal(w4a16_tensor_file_write(path, twice, 2, 0), W4A16_ERROR_INVALID_ARGUMENT);
    assert_text("twice");
    assert_int_equal(w4a16_tensor_file_write(NULL, &good, 1, 0), W4A16_ERROR_INVALID_ARGUMENT);
    assert_int_equal(w4a16_tensor_file_write(path, NULL, 1, 0), W4A16_ERROR_INVALID_ARGUMENT);
    assert_int_equal(w4a16_tensor_file_write(folder_path(*state, "no/t"), &good, 1, 0), W4A16_ERROR_NOT_FOUND);
    assert_int_equal(count_entries(*state), 0);
}

/** The writer takes data in pieces and in any order, and refuses too much and too little. */
static void test_streaming(void **state) {
    const w4a16_tensor tensors[] = {{.name = "a", .dtype = W4A16_UINT8, .dimensions = 1, .shape = {4}},
                                    {.name = "b", .dtype = W4A16_UINT8, .dimensions = 1, .shape = {3}}};
    w4_tensor_writer writer;
    const char *path = path_of(state);
    assert_int_equal(w4_tensor_writer_open(path, false, tensors, 2, NULL, NULL, 0, &writer), W4A16_OK);
    assert_int_equal(w4_tensor_writer_append(&writer, 1, "xy", 2), W4A16_OK);
    assert_int_equal(w4_tensor_writer_append(&writer, 0, "abc", 3), W4A16_OK);
    assert_int_equal(w4_tensor_writer_append(&writer, 0, "de", 2), W4A16_ERROR_INTERNAL);
    assert_int_equal(w4_tensor_writer_append(&writer, 0, "d", 1), W4A16_OK);
    assert_int_equal(w4_tensor_writer_append(&writer, 1, "z", 1), W4A16_OK);
    assert_int_equal(w4_tensor_writer_commit(&writer), W4A16_OK);
    w4_tensor_writer_abandon(&writer);
    w4a16_tensor_file *file;
    w4a16_tensor tensor;
    assert_int_equal(w4a16_tensor_file_open(path, &file), W4A16_OK);
    assert_int_equal(w4a16_tensor_file_find(file, "a", &tensor), W4A16_OK);
    assert_memory_equal(tensor.data, "abcdxyz", 7);
    w4a16_tensor_file_close(file);

    assert_int_equal(w4_tensor_writer_open(path, true, tensors, 2, NULL, NULL, 0, &writer), W4A16_OK);
    assert_int_equal(w4_tensor_writer_append(&writer, 0, "abcd", 4), W4A16_OK);
    assert_int_equal(w4_tensor_writer_commit(&writer), W4A16_ERROR_INTERNAL);
    assert_int_equal(count_entries(*state), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_create, folder_remove)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_damaged_headers),
        TEST(test_lengths),
        TEST(test_truncations),
        TEST(test_deep_nesting),
        TEST(test_reading),
        TEST(test_writing),
        TEST(test_writing_wrong_arguments),
        TEST(test_streaming),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
