/* SPDX-License-Identifier: Apache-2.0
 * What the CUDA backend leaves in the GPU's memory: byte for byte what w4_fragment_pack writes, out of arrays and out
 * of packed files. On a GPU and on the fake driver, also on one without room for packing on the device; skipped where
 * there is neither. */
#include "api/objects.h"
#include "api/support.h"
#include "backend/cuda/device.h"
#include "core/file.h"
#include "device_memory.h"
#include "pack/fragment.h"
#include "pack/packed_file.h"
#include "pack/seal.h"

static w4a16_context *cuda;

static void fill_random(w4_matrix *matrix, uint64_t *seed) {
    int64_t row_bytes = w4_matrix_row_bytes(matrix);
    size_t entries = (size_t)(matrix->n * matrix->groups);
    for (int64_t i = 0; i < matrix->n * row_bytes; i++) {
        matrix->codes[i] = (uint8_t)oracle_random(seed);
        if (matrix->k % 2 && i % row_bytes == row_bytes - 1) matrix->codes[i] &= 15;
    }
    for (size_t i = 0; i < entries; i++) { /* from 1 to 2, of either sign: farther apart, zero points would be added */
        uint32_t bits = (uint32_t)oracle_random(seed);
        if (matrix->scale_dtype == W4A16_FP32)
            ((uint32_t *)matrix->scales)[i] = (bits & 0x807fffff) | 0x3f800000;
        else
            ((uint16_t *)matrix->scales)[i] =
                (uint16_t)(matrix->scale_dtype == W4A16_BF16 ? (bits & 0x807f) | 0x3f80 : (bits & 0x83ff) | 0x3c00);
    }
    for (size_t i = 0; i < entries * w4_zero_size(matrix->zero_kind); i++)
        ((uint8_t *)matrix->zeros)[i] = (uint8_t)oracle_random(seed);
}

/** Fill the memory that the next allocation of this size is likely to get: what nobody writes then shows. */
static void poison(size_t bytes) {
    void *memory = device_allocate(bytes);
    device_fill(memory, 0xff, bytes);
    device_free(memory, 0);
}

static void check_packed(const w4_device_weight *weight, const uint8_t *expected, const char *what) {
    size_t bytes = (size_t)weight->layout.bytes;
    uint8_t *packed = test_allocate(bytes);
    device_copy_out(packed, (const void *)(uintptr_t)weight->packed, bytes);
    for (size_t i = 0; i < bytes; i++)
        if (packed[i] != expected[i])
            fail_msg("%s: byte %zu of %zu is 0x%02x, not 0x%02x", what, i, bytes, packed[i], expected[i]);
    free(packed);
}

static void check_shape(uint64_t *seed, int64_t n, int64_t k, int64_t group_size, w4a16_dtype scale_dtype,
                        w4a16_zero_kind zero_kind) {
    char what[128];
    w4_matrix matrix;
    w4_device_weight *weight = NULL;
    CHECK(w4_matrix_create(n, k, group_size, scale_dtype, zero_kind, 0, &matrix));
    fill_random(&matrix, seed);
    w4_packed_layout layout = w4_fragment_layout(&matrix);
    uint8_t *expected = test_allocate((size_t)layout.bytes);
    w4_fragment_pack(&matrix, &layout, expected);
    poison((size_t)layout.bytes);
    CHECK(cuda->backend->weight_upload(cuda->device, &matrix, &weight));
    snprintf(what, sizeof what, "n %d k %d group size %d, %s scales, zeros %d", (int)n, (int)k, (int)group_size,
             w4a16_dtype_name(scale_dtype), (int)zero_kind);
    check_packed(weight, expected, what);
    cuda->backend->weight_free(weight);
    free(expected);
    w4_matrix_free(&matrix);
}

static void packed_bytes_are_those_of_the_host(void **state) {
    (void)state;
    static const int64_t rows[] = {1, 63, 64, 65, 200};
    static const int64_t columns[] = {1, 2, 31, 33, 64, 65, 255, 256, 257, 417, 520, 1000};
    static const int64_t group_sizes[] = {-1, 32, 64, 96, 128, 256};
    static const w4a16_dtype scale_dtypes[] = {W4A16_FP16, W4A16_BF16, W4A16_FP32};
    uint64_t seed = 31;
    for (size_t n = 0; n < COUNT(rows); n++)
        for (size_t k = 0; k < COUNT(columns); k++)
            for (size_t g = 0; g < COUNT(group_sizes); g++)
                for (size_t kind = 0; kind < 9; kind++)
                    check_shape(&seed, rows[n], columns[k], group_sizes[g], scale_dtypes[kind % 3],
                                (w4a16_zero_kind)(kind / 3));
}

/** Larger than what the backend has on the device in canonical form at a time. */
static void slices_join(void **state) {
    (void)state;
    uint64_t seed = 32;
    check_shape(&seed, 3000, 12345, 96, W4A16_FP16, W4A16_ZERO_FLOAT);
}

static void check_file(const char *path, const uint8_t *expected, const char *what) {
    w4a16_weight *weight = NULL;
    w4_mapping mapping;
    CHECK(w4_map_file(path, &mapping));
    poison((size_t)mapping.size - SEAL_HEADER);
    w4_unmap_file(&mapping);
    CHECK(w4a16_weight_load(cuda, path, &weight));
    check_packed(weight->device_weight, expected, what);
    w4a16_weight_destroy(weight);
}

/** A packed file's bytes are the device's, also where another writer put something else into the padding. */
static void packed_files_load(void **state) {
    (void)state;
    uint64_t seed = 33;
    test_weight arrays;
    char folder[64], path[96], copy[96];
    w4a16_weight *weight = NULL;
    w4_mapping file;
    w4_packed_view view;
    test_make_folder(folder);
    snprintf(path, sizeof path, "%s/weight.w4a16", folder);
    snprintf(copy, sizeof copy, "%s/edited.w4a16", folder);
    test_weight_make(&arrays, &seed, 190, 417, 96, W4A16_BF16, W4A16_ZERO_FLOAT, 0);
    CHECK(w4a16_weight_create(cuda, &arrays.canonical, &weight));
    CHECK(w4a16_weight_save(weight, path, 0));
    w4a16_weight_destroy(weight);
    CHECK(w4_map_file(path, &file));
    check_file(path, file.data + SEAL_HEADER, "a file as it was saved");

    /* The same file with fewer rows: what was theirs is now padding. */
    uint8_t *edited = memcpy(test_allocate((size_t)file.size), file.data, (size_t)file.size);
    seal_store(edited, 16, 180, 8);
    seal(edited, (size_t)file.size, 0);
    w4_output output;
    CHECK(w4_output_open(copy, false, &output));
    CHECK(w4_output_write(&output, edited, file.size));
    CHECK(w4_output_commit(&output));
    w4_matrix matrix;
    CHECK(w4_packed_view_open(edited, file.size, copy, &view));
    CHECK(w4_packed_view_unpack(&view, true, &matrix));
    uint8_t *expected = test_allocate((size_t)view.layout.bytes);
    w4_fragment_pack(&matrix, &view.layout, expected);
    assert_memory_not_equal(expected, view.packed, (size_t)view.layout.bytes);
    check_file(copy, expected, "a file with other padding");
    free(expected);
    free(edited);
    w4_matrix_free(&matrix);
    w4_unmap_file(&file);
    test_weight_free(&arrays);
    test_remove_folder(folder);
}

static int begin(void **state) {
    (void)state;
    w4a16_context_options options;
    w4a16_context_options_init(&options);
    options.device = "cuda:0";
    device_begin();
    CHECK(w4a16_context_create(&options, &cuda));
    return 0;
}

static int end(void **state) {
    (void)state;
    w4a16_context_destroy(cuda);
    device_end();
    return 0;
}

int main(void) {
    w4a16_device_info info = {.struct_size = sizeof info};
    w4_cuda_device_query(0, &info);
    if (!info.usable) {
        printf("skipped: %s\n", info.reason);
        return getenv("W4A16_FAKE_CUDA") ? 1 : 77; /* the fake driver has no excuse */
    }
    printf("on %s, %s: %s\n", info.id, info.name, info.reason);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_bytes_are_those_of_the_host),
        cmocka_unit_test(slices_join),
        cmocka_unit_test(packed_files_load),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
