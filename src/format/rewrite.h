/* SPDX-License-Identifier: Apache-2.0
 * Inside the format room: what is known about an output before its first byte is written. */
#ifndef W4_FORMAT_REWRITE_H
#define W4_FORMAT_REWRITE_H

#include "format/checkpoint.h"
#include "format/module.h"

/** A module that the output holds quantised. */
typedef struct w4_choice {
    char *name;
    const w4a16_tensor *source; /* the tensor in whose place it is written */
    size_t index;               /* of the input's module, for converting */
    w4_matrix shape;            /* as promised, group_size and groups resolved; owns nothing */
    bool has_k_order;
    int64_t label; /* the group size that the config gives it; -1: one group per row */
} w4_choice;

typedef struct w4_rewrite_plan {
    const w4_rewrite *request;
    w4a16_checkpoint *input;
    const w4_layout *layout;
    w4_choice *choices;
    size_t choice_count;
    char **ignored; /* linear modules that stay as they are */
    size_t ignored_count;
    w4_scheme scheme;
    uint64_t done_bytes, total_bytes;
} w4_rewrite_plan;

/** Ask about every candidate of plan->input; fill choices, ignored, scheme and total_bytes. */
w4a16_status w4_rewrite_choose(w4_rewrite_plan *plan);
void w4_rewrite_plan_free(w4_rewrite_plan *plan);

/** quantization_config as engines read it. UNSUPPORTED if the format has one group size and the modules have several.
 */
w4a16_status w4_make_quantization_config(const w4_rewrite_plan *plan, json_t **config);

/** Everything of the input folder that is no tensor: config.json with the new `config`, and copies of the rest. */
w4a16_status w4_carry_folder(const w4_rewrite_plan *plan, const json_t *config, const char *target);

/** Write JSON as a file of its own. */
w4a16_status w4_json_write(const char *path, const json_t *json);

/** INVALID_ARGUMENT if writing `output` would destroy or extend `input`. */
w4a16_status w4_check_output(const char *input, const char *output);

#endif
