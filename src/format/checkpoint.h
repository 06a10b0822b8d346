/* SPDX-License-Identifier: Apache-2.0
 * Checkpoints: one .safetensors file or a model folder, their quantised modules, and writing them anew. */
#ifndef W4_FORMAT_CHECKPOINT_H
#define W4_FORMAT_CHECKPOINT_H

#include "core/matrix.h"
#include "format/safetensors.h"

/** Read, check and convert one module to canonical form (the text names file and tensor on failure). */
w4a16_status w4_checkpoint_import(const w4a16_checkpoint *checkpoint, size_t index, w4_matrix *matrix);

/** A checkpoint of one file that was parsed already, which the checkpoint then owns (also on failure). Looks at no
 * other file. For fuzzing. */
w4a16_status w4_checkpoint_from_file(w4a16_tensor_file *file, w4a16_checkpoint **checkpoint);

/** What a writer of a whole checkpoint does with one tensor of the input. */
typedef struct w4_rewrite {
    const char *input, *output;
    bool convert; /* false: quantise an unquantised input; true: convert a quantised one */
    bool overwrite;
    w4a16_format format; /* of the quantised modules in the output */
    w4a16_progress_callback progress;
    void *user;

    /** Called once per candidate module before anything is written: is `module` to be written quantised? If so fill
     * shape->n, k, group_size, scale_dtype, zero_kind, and k_order != NULL if it will have one (nothing is owned).
     * For quantising, `tensor` is the 2-D float tensor MODULE.weight; for converting, it is NULL and `index` is the
     * module of the input. */
    w4a16_status (*select)(void *state, const char *module, const w4a16_tensor *tensor, size_t index, bool *selected,
                           w4_matrix *shape);
    /** Make the matrix that was promised. signal and noise receive sums of squares (0 for converting). */
    w4a16_status (*make)(void *state, const char *module, const w4a16_tensor *tensor, size_t index, w4_matrix *matrix,
                         double *signal, double *noise);
    /** May be NULL; called once with the opened input, before the first select. */
    void (*opened)(void *state, const w4a16_checkpoint *input);
    void *state;
} w4_rewrite;

/** Quantise (input unquantised: candidates are all tensors MODULE.weight of 2 dimensions and fp16/bf16/fp32) or
 * convert (input quantised: candidates are its modules). Everything else is carried over. Writes aside, then renames.
 */
w4a16_status w4_checkpoint_rewrite(const w4_rewrite *rewrite);

/** UNSUPPORTED with a text if `format` cannot hold this shape (n or k not divisible, zero points, act-order). What
 * depends on values (a zero point of 16, a bf16 scale that fp16 cannot hold) shows only when the module is written. */
w4a16_status w4_format_check(w4a16_format format, const w4_matrix *shape);

#endif
