/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a checkpoint of one file: every module is described, imported and dequantised. Where both ways of
 * decoding succeed they must agree in every element. */
#include "core/half.h"
#include "format/checkpoint.h"
#include "fuzz/header_length.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const int64_t LARGEST = 1 << 16; /* elements that are decoded: the time goes into finding paths */

static void compare(const w4_matrix *matrix, const double *w) {
    for (int64_t row = 0; row < matrix->n; row++)
        for (int64_t j = 0; j < matrix->k; j++) {
            int64_t group = j / matrix->group_size, column = matrix->k_order ? matrix->k_order[j] : j;
            double scale = w4_load_float(matrix->scales, matrix->scale_dtype, (size_t)(row * matrix->groups + group));
            double value = (w4_matrix_code(matrix, row, j) - w4_matrix_zero(matrix, row, group)) * scale;
            if (w[row * matrix->k + column] != value) abort();
        }
}

static void decode(const w4a16_checkpoint *checkpoint, size_t index, const w4a16_module_info *info) {
    double *w = malloc((size_t)(info->n * info->k) * sizeof *w);
    if (!w) abort();
    w4_matrix matrix;
    w4a16_status decoded = w4a16_checkpoint_dequantize(checkpoint, info->name, W4A16_FP64, w, info->k);
    w4a16_status imported = w4_checkpoint_import(checkpoint, index, &matrix);
    if (imported == W4A16_OK) {
        if (decoded) abort(); /* whatever can be imported can be decoded */
        if (w4_matrix_validate(&matrix)) abort();
        compare(&matrix, w);
        w4_matrix_free(&matrix);
    }
    free(w);
}

static void check(const uint8_t *data, size_t size) {
    w4a16_tensor_file *file;
    w4a16_checkpoint *checkpoint;
    if (w4_tensor_file_parse(data, size, "input", &file)) return;
    if (w4_checkpoint_from_file(file, &checkpoint)) {
        if (!w4a16_last_error()[0] || strchr(w4a16_last_error(), '\n')) abort();
        return;
    }
    for (size_t i = 0; i < w4a16_checkpoint_count(checkpoint); i++) {
        w4a16_module_info info = {.struct_size = sizeof info};
        size_t index;
        if (w4a16_checkpoint_module(checkpoint, i, &info)) abort();
        if (w4a16_checkpoint_find(checkpoint, info.name, &index) || index != i) abort();
        if (info.supported != (info.reason[0] == 0)) abort();
        if (info.supported && info.n <= LARGEST && info.k <= LARGEST / info.n) decode(checkpoint, i, &info);
    }
    w4a16_checkpoint_close(checkpoint);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = mend_header_length(data, size);
    check(copy, size);
    free(copy);
    return 0;
}
