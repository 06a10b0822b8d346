/* SPDX-License-Identifier: Apache-2.0
 * Inside the format room: an open checkpoint, its quantised modules, and one table of functions per layout on disk. */
#ifndef W4_FORMAT_MODULE_H
#define W4_FORMAT_MODULE_H

#include "core/matrix.h"
#include "format/quantization.h"
#include "format/safetensors.h"

/** A tensor and the file that holds it, for error texts. tensor is NULL where there is none. */
typedef struct w4_tensor_ref {
    const w4a16_tensor *tensor;
    const w4a16_tensor_file *file;
} w4_tensor_ref;

/** The tensors that a quantised module may have; each layout has its own suffixes for them. */
typedef enum w4_part {
    W4_PART_CODES = 0,
    W4_PART_SCALES,
    W4_PART_ZEROS,
    W4_PART_G_IDX, /* group of each column */
    W4_PART_SHAPE, /* n, k as numbers */
    W4_PARTS
} w4_part;

typedef struct w4_layout w4_layout;

typedef struct w4_module {
    char *name;
    const w4_layout *layout; /* NULL: not supported */
    w4a16_format format;
    const char *variant;
    w4_tensor_ref parts[W4_PARTS];
    int64_t n, k;
    int64_t group_size; /* resolved; columns per group */
    int64_t groups;
    w4a16_dtype scale_dtype;
    int symmetric;        /* as the config says; -1: not said */
    bool zeros_minus_one; /* GPTQ v1 */
    uint64_t bytes;       /* on disk */
    char reason[256];     /* why it is not supported */
} w4_module;

struct w4a16_checkpoint {
    char *path;
    bool is_folder;
    bool has_index;            /* the files were named by model.safetensors.index.json */
    w4a16_tensor_file **files; /* as the index names them first, or the one file */
    char **file_names;         /* plain names within the folder */
    size_t file_count;
    w4_tensor_ref *tensors; /* of all files, sorted by name */
    size_t tensor_count;
    w4_quantization quantization;
    w4_module *modules; /* sorted by name */
    size_t module_count;
};

/** One tensor of a module in an output. */
typedef struct w4_part_plan {
    w4_part part;
    const char *suffix; /* ".qweight" */
    w4a16_dtype dtype;
    int dimensions;
    int64_t shape[2];
} w4_part_plan;

/** What all modules of one output have in common: optional tensors are written for all of them or for none, because
 * engines fuse neighbouring layers. */
typedef struct w4_scheme {
    bool zeros, g_idx;
} w4_scheme;

/** How one format stores a module. */
struct w4_layout {
    w4a16_format format;
    bool scales_by_group; /* scales are [groups, n] on disk, not [n, groups] */

    /** Are all zero points 8, by this layout's rules? */
    bool (*is_symmetric)(const w4_module *module);
    /** Fill matrix->codes, columns in the order on disk. */
    void (*read_codes)(const w4_module *module, w4_matrix *matrix);
    /** Fill the integer zero points [n, groups]. */
    void (*read_zeros)(const w4_module *module, uint8_t *zeros);

    w4a16_status (*check)(const w4_matrix *shape);
    int (*plan)(const w4_matrix *shape, const w4_scheme *scheme, w4_part_plan plan[W4_PARTS]);
    /** Fill `data` with one part; `codes` are the matrix's codes in the columns' own order. */
    w4a16_status (*fill)(const w4_matrix *matrix, const uint8_t *codes, w4_part part, uint8_t *data);
};

extern const w4_layout w4_awq_layout, w4_gptq_layout, w4_compressed_tensors_layout;

/** The layout that writes `format`; NULL for none. */
const w4_layout *w4_layout_of(w4a16_format format);

/** Find every quantised module among the checkpoint's tensors and check their shapes (detect.c). */
w4a16_status w4_find_modules(w4a16_checkpoint *checkpoint);

/** Shapes of one module, by the layout's rules: fill it in, set `layout` or `reason`. FORMAT where tensors contradict
 * each other. */
w4a16_status w4_describe_awq(const w4_quantization *quantization, w4_module *module);
w4a16_status w4_describe_gptq(const w4_quantization *quantization, w4_module *module);
w4a16_status w4_describe_compressed_tensors(const w4_quantization *quantization, w4_module *module);

/* Helpers for describing (describe.c). */
w4_tensor_ref w4_find_tensor(const w4a16_checkpoint *checkpoint, const char *module, const char *suffix);
w4a16_status w4_expect_part(const w4_module *module, w4_part part, const char *suffix);
w4a16_status w4_expect_dtype(const w4_tensor_ref *ref, w4a16_dtype dtype);
w4a16_status w4_expect_scale_dtype(const w4_tensor_ref *ref);
w4a16_status w4_expect_dimensions(const w4_tensor_ref *ref, int dimensions);
w4a16_status w4_expect_shape(const w4_tensor_ref *ref, int dimensions, int64_t rows, int64_t columns);
void w4_set_unsupported(w4_module *module, const char *format, ...) __attribute__((format(printf, 2, 3)));
/** Set group_size and groups from the number of groups found in `scales` and what the config says. */
w4a16_status w4_resolve_groups(const w4_quantization *quantization, w4_module *module, int64_t groups);

/** Put "FILE: tensor 'NAME': " before the last error. */
w4a16_status w4_fail_in(w4a16_status status, const w4_tensor_ref *ref);

/* Act-order (act_order.c). */

/** Do the columns stand in groups as they are? True without a g_idx. */
bool w4_groups_in_order(const w4_module *module);
/** The columns sorted stably by group in *k_order (new; NULL where they stand so already). FORMAT for a g_idx out of
 * range, UNSUPPORTED for groups that are not group_size wide. */
w4a16_status w4_sort_columns(const w4_module *module, int32_t **k_order);
/** target column j = source column k_order[j], or with `invert` target column k_order[j] = source column j; rows of
 * ceil(k/2) bytes of nibbles. */
w4a16_status w4_permute_columns(const uint8_t *source, uint8_t *target, int64_t n, int64_t k, const int32_t *k_order,
                                bool invert);

/** g_idx [k], int32: the group of each column in the columns' own order. */
void w4_fill_group_index(const w4_matrix *matrix, uint8_t *data);

/** The little-endian 32-bit word `index` of a tensor's data, which may stand at any address. */
static inline uint32_t w4_load_word(const void *data, int64_t index) {
    const uint8_t *byte = (const uint8_t *)data + index * 4;
    return (uint32_t)byte[0] | (uint32_t)byte[1] << 8 | (uint32_t)byte[2] << 16 | (uint32_t)byte[3] << 24;
}

static inline void w4_store_word(void *data, int64_t index, uint32_t word) {
    uint8_t *byte = (uint8_t *)data + index * 4;
    for (int i = 0; i < 4; i++) byte[i] = (uint8_t)(word >> 8 * i);
}

#endif
