/* SPDX-License-Identifier: Apache-2.0
 * quantization_config as the engines that load such checkpoints read it. */
#include "format/rewrite.h"

#include <inttypes.h>
#include <string.h>

static bool is_output_head(const char *module) {
    size_t length = strlen(module), suffix = strlen("lm_head");
    return length >= suffix && strcmp(module + length - suffix, "lm_head") == 0 &&
           (length == suffix || module[length - suffix - 1] == '.');
}

static bool quantises_output_head(const w4_rewrite_plan *plan) {
    for (size_t i = 0; i < plan->choice_count; i++)
        if (is_output_head(plan->choices[i].name)) return true;
    return false;
}

/** The modules left as they are. */
static json_t *ignored_modules(const w4_rewrite_plan *plan) {
    json_t *names = json_array();
    for (size_t i = 0; i < plan->ignored_count; i++) json_array_append_new(names, json_string(plan->ignored[i]));
    return names;
}

/** The one group size of a format that cannot hold several. */
static w4a16_status single_group_size(const w4_rewrite_plan *plan, int64_t *label) {
    *label = plan->choices[0].label;
    for (size_t i = 1; i < plan->choice_count; i++)
        if (plan->choices[i].label != *label)
            return w4_fail(W4A16_ERROR_UNSUPPORTED,
                           "%s holds one group size: module '%s' has %" PRId64 ", module '%s' has %" PRId64
                           "; compressed-tensors holds both",
                           w4a16_format_name(plan->request->format), plan->choices[0].name, *label,
                           plan->choices[i].name, plan->choices[i].label);
    return W4A16_OK;
}

static json_t *awq_config(const w4_rewrite_plan *plan, int64_t group_size) {
    json_t *left_out = plan->ignored_count ? ignored_modules(plan) : json_null();
    return json_pack("{s:s, s:s, s:i, s:I, s:b, s:o}", "quant_method", "awq", "version", "gemm", "bits", 4,
                     "group_size", (json_int_t)group_size, "zero_point", 1, "modules_to_not_convert", left_out);
}

/** "-:^NAME$" with the dots escaped: a pattern that leaves exactly this module out. */
static void leave_out(json_t *patterns, const char *module) {
    char pattern[8300];
    size_t used = 0;
    const char prefix[] = "-:^", special[] = ".^$*+?()[]{}|\\";
    memcpy(pattern, prefix, sizeof prefix - 1);
    used = sizeof prefix - 1;
    for (; *module && used + 4 < sizeof pattern; module++) {
        if (strchr(special, *module)) pattern[used++] = '\\';
        pattern[used++] = *module;
    }
    pattern[used++] = '$';
    pattern[used] = 0;
    json_object_set_new(patterns, pattern, json_object());
}

/** GPTQ engines quantise every linear layer of a block but those that a pattern of "dynamic" leaves out. */
static json_t *gptq_config(const w4_rewrite_plan *plan, int64_t group_size) {
    json_t *config = json_pack("{s:s, s:i, s:I, s:b, s:b, s:s, s:b}", "quant_method", "gptq", "bits", 4, "group_size",
                               (json_int_t)group_size, "desc_act", plan->scheme.g_idx, "sym", !plan->scheme.zeros,
                               "checkpoint_format", "gptq_v2", "lm_head", quantises_output_head(plan));
    json_t *patterns = json_object();
    for (size_t i = 0; i < plan->ignored_count; i++)
        if (!is_output_head(plan->ignored[i]) && !strstr(plan->ignored[i], "embed"))
            leave_out(patterns, plan->ignored[i]);
    if (json_object_size(patterns) > 0)
        json_object_set_new(config, "dynamic", patterns);
    else
        json_decref(patterns);
    return config;
}

/** One scheme of compressed-tensors; takes over `targets`. */
static json_t *config_group(const w4_rewrite_plan *plan, int64_t label, json_t *targets) {
    bool grouped = label != -1;
    json_t *weights = json_pack("{s:i, s:s, s:b, s:s, s:o, s:o, s:b, s:n, s:s, s:{}}", "num_bits", 4, "type", "int",
                                "symmetric", !plan->scheme.zeros, "strategy", grouped ? "group" : "channel",
                                "group_size", grouped ? json_integer(label) : json_null(), "actorder",
                                grouped && plan->scheme.g_idx ? json_string("group") : json_null(), "dynamic", 0,
                                "block_structure", "observer", "minmax", "observer_kwargs");
    return json_pack("{s:o, s:o, s:n, s:n}", "targets", targets, "weights", weights, "input_activations",
                     "output_activations");
}

/** How many modules have this group size. */
static size_t count_label(const w4_rewrite_plan *plan, int64_t label) {
    size_t count = 0;
    for (size_t i = 0; i < plan->choice_count; i++) count += plan->choices[i].label == label;
    return count;
}

/** The commonest group size becomes that of every linear layer; others name their modules. */
static json_t *config_groups(const w4_rewrite_plan *plan) {
    int64_t common = plan->choices[0].label;
    size_t most = count_label(plan, common);
    for (size_t i = 1; i < plan->choice_count && most * 2 < plan->choice_count; i++) {
        if (plan->choices[i].label == plan->choices[i - 1].label) continue;
        size_t count = count_label(plan, plan->choices[i].label);
        if (count <= most) continue;
        most = count;
        common = plan->choices[i].label;
    }
    json_t *groups = json_object();
    json_object_set_new(groups, "group_0", config_group(plan, common, json_pack("[s]", "Linear")));
    for (size_t i = 0; i < plan->choice_count; i++) {
        int64_t label = plan->choices[i].label;
        bool seen = label == common;
        for (size_t j = 0; j < i && !seen; j++) seen = plan->choices[j].label == label;
        if (seen) continue;
        json_t *names = json_array();
        for (size_t j = i; j < plan->choice_count; j++)
            if (plan->choices[j].label == label) json_array_append_new(names, json_string(plan->choices[j].name));
        char key[32];
        snprintf(key, sizeof key, "group_%zu", json_object_size(groups));
        json_object_set_new(groups, key, config_group(plan, label, names));
    }
    return groups;
}

static json_t *compressed_tensors_config(const w4_rewrite_plan *plan) {
    json_t *ignore = ignored_modules(plan);
    bool has_head = quantises_output_head(plan);
    for (size_t i = 0; i < plan->ignored_count; i++) has_head |= is_output_head(plan->ignored[i]);
    if (!has_head) json_array_append_new(ignore, json_string("lm_head"));
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:n}", "quant_method", "compressed-tensors", "format", "pack-quantized",
                     "quantization_status", "compressed", "config_groups", config_groups(plan), "ignore", ignore,
                     "kv_cache_scheme");
}

w4a16_status w4_make_quantization_config(const w4_rewrite_plan *plan, json_t **config) {
    int64_t group_size = 0;
    if (plan->request->format != W4A16_FORMAT_COMPRESSED_TENSORS) W4_TRY(single_group_size(plan, &group_size));
    if (plan->request->format == W4A16_FORMAT_AWQ)
        *config = awq_config(plan, group_size);
    else if (plan->request->format == W4A16_FORMAT_GPTQ)
        *config = gptq_config(plan, group_size);
    else
        *config = compressed_tensors_config(plan);
    if (!*config) return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: quantization_config");
    return W4A16_OK;
}
