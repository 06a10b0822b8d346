/* SPDX-License-Identifier: Apache-2.0
 * What a model's JSON says about its quantisation, and the JSON files around the tensors. */
#ifndef W4_FORMAT_QUANTIZATION_H
#define W4_FORMAT_QUANTIZATION_H

#include "core/status.h"

#include <jansson.h>
#include <stdbool.h>

enum { W4_LARGEST_GROUP_SIZES = 16 };

/** quantization_config, read as far as it tells how weights are stored. All of it is optional. */
typedef struct w4_quantization {
    bool known;       /* a config was found; without one everything is told from shapes */
    char source[160]; /* where, for error texts; the end of a long path */
    char method[32];  /* quant_method in lower case, or "" */
    char variant[32]; /* version, checkpoint_format or format in lower case, or "" */
    int bits;         /* 0: not said, or not the same for all modules */
    int symmetric;    /* 1, 0; -1: not said, or not the same for all modules */
    bool act_order;
    bool varies; /* modules may deviate from what is said here */
    /* The group sizes that modules may have; -1: one group per row. None: not said. */
    int64_t group_sizes[W4_LARGEST_GROUP_SIZES];
    int group_size_count;
} w4_quantization;

/** Parse JSON text; `source` stands for it in error texts. *json is new. */
w4a16_status w4_json_parse(const void *text, uint64_t size, const char *source, json_t **json);
w4a16_status w4_json_read(const char *path, json_t **json);

/** Read a quantization_config object. `standalone`: the object was a whole quant_config.json or quantize_config.json,
 * whose method is told from its other keys if it does not say. */
w4a16_status w4_quantization_parse(const json_t *object, bool standalone, const char *source,
                                   w4_quantization *quantization);

/** Look beside the tensors: config.json, then quantize_config.json, then quant_config.json of `directory`. Leaves
 * *quantization unknown if none of them is there or says anything. */
w4a16_status w4_quantization_find(const char *directory, w4_quantization *quantization);

/** The files that w4_quantization_find reads whole: an output that says it anew must not keep them. */
bool w4_is_quantization_file(const char *name);

/** Check model.safetensors.index.json: *weight_map (borrowed from `index`) maps every tensor to the plain name of a
 * file. */
w4a16_status w4_index_check(const json_t *index, const char *source, json_t **weight_map);

#endif
