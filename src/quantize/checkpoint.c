/* SPDX-License-Identifier: Apache-2.0
 * Quantising a checkpoint: which modules, and what becomes of those that the format cannot hold. */
#include "format/checkpoint.h"
#include "core/memory.h"
#include "quantize/quantize.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Two-dimensional weights that are not linear layers, or that lose too much and save little: token and position
 * embeddings under their usual names, output heads, and the routers of mixtures of experts. Compared without case. */
static const char *const default_exclude[] = {
    "*embed*", "*lm_head*",    "*norm*",   "wte",      "*.wte",
    "wpe",     "*.wpe",        "shared",   "*.shared", "output",
    "score",   "*classifier*", "*router*", "*.gate",   "*.shared_expert_gate",
};

typedef struct pattern_use {
    bool matched;  /* a candidate's name */
    bool selected; /* one that no exclude pattern took away */
} pattern_use;

typedef struct selection {
    const w4a16_quantize_options *options;
    pattern_use *uses; /* [options->include_count] */
    size_t candidates, selected;
    char excluded_by[128]; /* the exclude pattern that took away the last included module */
} selection;

/* The caller's patterns count always; the usual exclusions only where the caller does not name what he wants. */
static const char *excluding_pattern(const w4a16_quantize_options *options, const char *module) {
    for (size_t i = 0; i < options->exclude_count; i++)
        if (fnmatch(options->exclude[i], module, 0) == 0) return options->exclude[i];
    if (options->include_count) return NULL;
    for (size_t i = 0; i < sizeof default_exclude / sizeof *default_exclude; i++)
        if (fnmatch(default_exclude[i], module, FNM_CASEFOLD) == 0) return default_exclude[i];
    return NULL;
}

/* Is the module wanted by the patterns? Keeps account of which include patterns had an effect. */
static bool is_wanted(selection *state, const char *module) {
    const w4a16_quantize_options *options = state->options;
    const char *excluded = excluding_pattern(options, module);
    bool included = options->include_count == 0;
    for (size_t i = 0; i < options->include_count; i++) {
        if (fnmatch(options->include[i], module, 0) != 0) continue;
        included = true;
        state->uses[i].matched = true;
        if (excluded)
            snprintf(state->excluded_by, sizeof state->excluded_by, "%s", excluded);
        else
            state->uses[i].selected = true;
    }
    return included && !excluded;
}

/* A format that cannot hold a module is an error where the caller named the module, otherwise a warning; a warning
 * must leave the thread's last error as it was. */
static w4a16_status check_format(const selection *state, const char *module, const w4_matrix *shape, bool *fits) {
    char before[1024];
    snprintf(before, sizeof before, "%s", w4a16_last_error());
    w4a16_status status = w4_format_check(state->options->format, shape);
    *fits = status == W4A16_OK;
    if (status == W4A16_OK) return status;
    if (status != W4A16_ERROR_UNSUPPORTED || state->options->include_count)
        return w4_fail_context(status, "module '%s': ", module);
    w4_log(W4A16_LOG_WARNING, "module '%s' stays unquantised: %s", module, w4a16_last_error());
    w4_fail(W4A16_OK, "%s", before);
    return W4A16_OK;
}

static w4a16_status select_module(void *user, const char *module, const w4a16_tensor *tensor, size_t index,
                                  bool *selected, w4_matrix *shape) {
    selection *state = user;
    const w4a16_quantize_options *options = state->options;
    (void)index;
    *selected = false;
    if (!tensor) return w4_fail(W4A16_ERROR_INTERNAL, "module '%s' has no tensor to quantise", module);
    state->candidates++;
    if (!is_wanted(state, module)) return W4A16_OK;
    int64_t n = tensor->shape[0], k = tensor->shape[1];
    int64_t group_size = options->group_size == -1 || options->group_size > k ? k : options->group_size;
    *shape = (w4_matrix){.n = n,
                         .k = k,
                         .group_size = group_size,
                         .groups = w4_ceil_divide(k, group_size),
                         .scale_dtype = options->scale_dtype,
                         .zero_kind = options->asymmetric ? W4A16_ZERO_INTEGER : W4A16_ZERO_SYMMETRIC};
    W4_TRY(check_format(state, module, shape, selected));
    if (*selected) state->selected++;
    return W4A16_OK;
}

/* Once every candidate has been seen: did each include pattern have an effect, and is there anything to do? */
static w4a16_status check_selection(const selection *state) {
    const w4a16_quantize_options *options = state->options;
    for (size_t i = 0; i < options->include_count; i++) {
        if (!state->uses[i].matched)
            return w4_fail(W4A16_ERROR_NOT_FOUND,
                           "the include pattern '%s' matches no module with a two-dimensional float weight",
                           options->include[i]);
        if (!state->uses[i].selected)
            return w4_fail(W4A16_ERROR_NOT_FOUND, "the include pattern '%s' matches only modules that '%s' excludes",
                           options->include[i], state->excluded_by);
    }
    if (!state->selected)
        return w4_fail(
            W4A16_ERROR_NOT_FOUND, "no linear layer to quantise: of %zu candidates none is wanted%s", state->candidates,
            options->include_count ? "" : " (embeddings and heads are left alone: name them to include them)");
    return W4A16_OK;
}

static w4a16_status make_module(void *user, const char *module, const w4a16_tensor *tensor, size_t index,
                                w4_matrix *matrix, double *signal, double *noise) {
    selection *state = user;
    const w4a16_quantize_options *options = state->options;
    (void)index;
    W4_TRY(check_selection(state));
    W4_TRY(w4_matrix_create(tensor->shape[0], tensor->shape[1], options->group_size, options->scale_dtype,
                            options->asymmetric ? W4A16_ZERO_INTEGER : W4A16_ZERO_SYMMETRIC, 0, matrix));
    w4a16_status status =
        w4_quantize_matrix(options, tensor->data, tensor->dtype, tensor->shape[1], matrix, signal, noise);
    if (status) {
        w4_matrix_free(matrix);
        return w4_fail_context(status, "tensor '%s.weight': ", module);
    }
    return W4A16_OK;
}

/* The first report comes after the selection and before anything appears under the output's path: the last chance to
 * refuse a selection that selects nothing. */
static int report(const w4a16_progress *progress, void *user) {
    selection *state = user;
    if (check_selection(state)) return 1;
    return state->options->progress ? state->options->progress(progress, state->options->user) : 0;
}

static w4a16_status check_patterns(const char *name, const char *const *patterns, size_t count) {
    if (count && !patterns)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.%s is NULL, but options.%s_count is %zu", name, name,
                       count);
    for (size_t i = 0; i < count; i++)
        if (!patterns[i]) return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.%s[%zu] is NULL", name, i);
    return W4A16_OK;
}

w4a16_status w4a16_checkpoint_quantize(const char *input, const char *output, const w4a16_quantize_options *options) {
    w4a16_quantize_options defaults;
    w4a16_quantize_options_init(&defaults);
    if (!options) options = &defaults;
    if (!input) return w4_fail_null("input");
    if (!output) return w4_fail_null("output");
    W4_TRY(w4_quantize_options_check(options));
    if (options->format != W4A16_FORMAT_AWQ && options->format != W4A16_FORMAT_GPTQ &&
        options->format != W4A16_FORMAT_COMPRESSED_TENSORS)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "options.format is %d; it must be one of w4a16_format but none",
                       (int)options->format);
    W4_TRY(check_patterns("include", options->include, options->include_count));
    W4_TRY(check_patterns("exclude", options->exclude, options->exclude_count));

    selection state = {.options = options};
    void *memory;
    W4_TRY(w4_allocate(options->include_count * sizeof *state.uses, "the include patterns", &memory));
    state.uses = memory;
    w4_rewrite rewrite = {.input = input,
                          .output = output,
                          .overwrite = options->overwrite,
                          .format = options->format,
                          .progress = report,
                          .user = &state,
                          .select = select_module,
                          .make = make_module,
                          .state = &state};
    w4a16_status status = w4_checkpoint_rewrite(&rewrite);
    if (state.candidates && (status == W4A16_ERROR_CANCELLED || status == W4A16_ERROR_NOT_FOUND)) {
        w4a16_status selected = check_selection(&state); /* where that is why, it says it better */
        if (selected) status = selected;
    }
    free(state.uses);
    return status;
}
