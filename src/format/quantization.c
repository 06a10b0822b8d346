/* SPDX-License-Identifier: Apache-2.0
 * Reading the JSON around the tensors. Unknown keys are ignored; a known key of the wrong type is an error, because
 * guessing past it would decode wrong weights. */
#include "format/quantization.h"

#include "core/file.h"
#include "format/safetensors.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t LARGEST_JSON = 256u << 20;

w4a16_status w4_json_parse(const void *text, uint64_t size, const char *source, json_t **json) {
    if (size > LARGEST_JSON)
        return w4_fail(W4A16_ERROR_FORMAT, "%s: %" PRIu64 " bytes; a JSON file of a model has at most %" PRIu64, source,
                       size, LARGEST_JSON);
    json_error_t error;
    *json = json_loadb(size ? text : "", (size_t)size, JSON_REJECT_DUPLICATES, &error);
    if (*json) return W4A16_OK;
    for (char *byte = error.text; *byte; byte++)
        if ((unsigned char)*byte < 0x20) *byte = '?';
    return w4_fail(W4A16_ERROR_FORMAT, "%s: bad JSON in line %d: %s", source, error.line, error.text);
}

w4a16_status w4_json_read(const char *path, json_t **json) {
    w4_mapping mapping;
    W4_TRY(w4_map_file(path, &mapping));
    w4a16_status status = w4_json_parse(mapping.data, mapping.size, path, json);
    w4_unmap_file(&mapping);
    return status;
}

/** The value of the first of `keys` that is there and not null. */
static const json_t *first_of(const json_t *object, const char *const *keys, const char **key) {
    for (; *keys; keys++) {
        const json_t *value = json_object_get(object, *keys);
        if (!value || json_is_null(value)) continue;
        *key = *keys;
        return value;
    }
    return NULL;
}

#define KEYS(...) ((const char *const[]){__VA_ARGS__, NULL})

static w4a16_status wrong_type(const char *source, const char *key, const char *wanted) {
    return w4_fail(W4A16_ERROR_FORMAT, "%s: quantization_config: '%s' is no %s", source, key, wanted);
}

static w4a16_status read_text(const json_t *object, const char *const *keys, const char *source, char *text,
                              size_t size) {
    const char *key;
    const json_t *value = first_of(object, keys, &key);
    if (!value) return W4A16_OK;
    if (!json_is_string(value)) return wrong_type(source, key, "text");
    snprintf(text, size, "%s", json_string_value(value));
    for (char *byte = text; *byte; byte++) {
        *byte = (char)tolower((unsigned char)*byte);
        if ((unsigned char)*byte < 0x20) *byte = '?';
    }
    return W4A16_OK;
}

static w4a16_status read_integer(const json_t *object, const char *const *keys, const char *source, int64_t *number,
                                 bool *found) {
    const char *key;
    const json_t *value = first_of(object, keys, &key);
    *found = value != NULL;
    if (!value) return W4A16_OK;
    if (!json_is_integer(value)) return wrong_type(source, key, "integer");
    *number = json_integer_value(value);
    return W4A16_OK;
}

/** @param flag -1 where the key is not there */
static w4a16_status read_flag(const json_t *object, const char *name, const char *source, int *flag) {
    const char *key;
    const json_t *value = first_of(object, KEYS(name), &key);
    *flag = -1;
    if (!value) return W4A16_OK;
    if (!json_is_boolean(value)) return wrong_type(source, key, "true or false");
    *flag = json_is_true(value);
    return W4A16_OK;
}

static w4a16_status add_group_size(w4_quantization *quantization, int64_t size) {
    if (size != -1 && size < 1)
        return w4_fail(W4A16_ERROR_FORMAT,
                       "%s: quantization_config: group_size is %" PRId64 "; it must be positive, or -1",
                       quantization->source, size);
    for (int i = 0; i < quantization->group_size_count; i++)
        if (quantization->group_sizes[i] == size) return W4A16_OK;
    if (quantization->group_size_count == W4_LARGEST_GROUP_SIZES)
        quantization->varies = true; /* more than can be kept: trust the shapes */
    else
        quantization->group_sizes[quantization->group_size_count++] = size;
    return W4A16_OK;
}

/** One entry of compressed-tensors' config_groups. */
static w4a16_status read_config_group(const json_t *group, bool first, w4_quantization *quantization) {
    const char *source = quantization->source;
    const json_t *weights = json_object_get(group, "weights");
    if (!weights || json_is_null(weights)) return W4A16_OK; /* only activations are quantised */
    if (!json_is_object(weights)) return wrong_type(source, "weights", "object");
    char strategy[32] = "";
    int64_t bits = 0, size = 0;
    bool found;
    int symmetric;
    W4_TRY(read_integer(weights, KEYS("num_bits"), source, &bits, &found));
    W4_TRY(read_flag(weights, "symmetric", source, &symmetric));
    W4_TRY(read_text(weights, KEYS("strategy"), source, strategy, sizeof strategy));
    W4_TRY(read_integer(weights, KEYS("group_size"), source, &size, &found));
    if (!found && strcmp(strategy, "channel") == 0) {
        size = -1;
        found = true;
    }
    if (found) W4_TRY(add_group_size(quantization, size));
    if (bits < 0 || bits > 64) bits = 0;
    if (first) {
        quantization->bits = (int)bits;
        quantization->symmetric = symmetric;
    } else {
        if (quantization->bits != bits) quantization->bits = 0;
        if (quantization->symmetric != symmetric) quantization->symmetric = -1;
    }
    return W4A16_OK;
}

static w4a16_status read_config_groups(const json_t *groups, w4_quantization *quantization) {
    if (!json_is_object(groups)) return wrong_type(quantization->source, "config_groups", "object");
    bool first = true;
    for (void *entry = json_object_iter((json_t *)(uintptr_t)groups); entry;
         entry = json_object_iter_next((json_t *)(uintptr_t)groups, entry)) {
        W4_TRY(read_config_group(json_object_iter_value(entry), first, quantization));
        first = false;
    }
    return W4A16_OK;
}

/** AWQ's and GPTQ's flat keys, in the spellings of their own files and of config.json. */
static w4a16_status read_flat(const json_t *object, w4_quantization *quantization) {
    const char *source = quantization->source;
    int64_t number = 0;
    bool found;
    W4_TRY(read_integer(object, KEYS("bits", "w_bit"), source, &number, &found));
    if (found) {
        if (number < 1 || number > 16)
            return w4_fail(W4A16_ERROR_FORMAT, "%s: quantization_config: bits is %" PRId64 "; 4 is supported", source,
                           number);
        quantization->bits = (int)number;
    }
    W4_TRY(read_integer(object, KEYS("group_size", "q_group_size"), source, &number, &found));
    if (found) W4_TRY(add_group_size(quantization, number));
    W4_TRY(read_flag(object, "sym", source, &quantization->symmetric));
    int flag;
    W4_TRY(read_flag(object, "desc_act", source, &flag));
    quantization->act_order = flag == 1;
    W4_TRY(read_flag(object, "is_marlin_format", source, &flag));
    if (flag == 1) snprintf(quantization->variant, sizeof quantization->variant, "marlin");
    /* Overrides by patterns over module names; those that only leave modules out ("-:") change no module's layout. */
    const json_t *dynamic = json_object_get(object, "dynamic");
    for (void *entry = json_object_iter((json_t *)(uintptr_t)dynamic); entry;
         entry = json_object_iter_next((json_t *)(uintptr_t)dynamic, entry))
        if (strncmp(json_object_iter_key(entry), "-:", 2) != 0) quantization->varies = true;
    return W4A16_OK;
}

w4a16_status w4_quantization_parse(const json_t *object, bool standalone, const char *source,
                                   w4_quantization *quantization) {
    w4_quantization result = {.known = true, .symmetric = -1};
    size_t length = strlen(source), room = sizeof result.source - 1;
    snprintf(result.source, sizeof result.source, "%s", length > room ? source + length - room : source);
    if (!json_is_object(object)) return w4_fail(W4A16_ERROR_FORMAT, "%s: quantization_config is no object", source);
    W4_TRY(read_text(object, KEYS("quant_method"), source, result.method, sizeof result.method));
    if (strcmp(result.method, "compressed_tensors") == 0)
        snprintf(result.method, sizeof result.method, "compressed-tensors");
    if (standalone && !result.method[0]) {
        bool awq = json_object_get(object, "w_bit") || json_object_get(object, "q_group_size") ||
                   json_object_get(object, "zero_point");
        bool gptq = json_object_get(object, "desc_act") || json_object_get(object, "damp_percent");
        if (awq != gptq) snprintf(result.method, sizeof result.method, "%s", awq ? "awq" : "gptq");
    }
    /* AWQ's "version" names the layout; elsewhere the key counts something else. */
    const char *const *keys = strcmp(result.method, "awq") == 0 ? KEYS("version", "checkpoint_format", "format")
                                                                : KEYS("checkpoint_format", "format");
    W4_TRY(read_text(object, keys, source, result.variant, sizeof result.variant));
    const json_t *groups = json_object_get(object, "config_groups");
    if (groups && !json_is_null(groups))
        W4_TRY(read_config_groups(groups, &result));
    else
        W4_TRY(read_flat(object, &result));
    *quantization = result;
    return W4A16_OK;
}

static const char *const own_files[] = {"quantize_config.json", "quant_config.json"};

bool w4_is_quantization_file(const char *name) {
    return strcmp(name, own_files[0]) == 0 || strcmp(name, own_files[1]) == 0;
}

static w4a16_status find_in(const char *directory, const char *name, w4_quantization *quantization) {
    char *path;
    W4_TRY(w4_join_path(directory, name, &path));
    w4a16_status status = W4A16_OK;
    json_t *json = NULL;
    if (w4_path_exists(path)) status = w4_json_read(path, &json);
    if (json) {
        bool standalone = w4_is_quantization_file(name);
        const json_t *object = json;
        if (!standalone) {
            object = json_object_get(json, "quantization_config");
            if (!object || json_is_null(object)) object = json_object_get(json, "compression_config");
        }
        if (object && !json_is_null(object)) status = w4_quantization_parse(object, standalone, path, quantization);
    }
    json_decref(json);
    free(path);
    return status;
}

w4a16_status w4_quantization_find(const char *directory, w4_quantization *quantization) {
    W4_TRY(find_in(directory, "config.json", quantization));
    for (size_t i = 0; i < 2 && !quantization->known; i++) W4_TRY(find_in(directory, own_files[i], quantization));
    return W4A16_OK;
}

/** A shard stands in the model's folder itself: a path could lead anywhere. */
static bool is_plain_name(const char *name) {
    if (!name[0] || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return false;
    for (const char *byte = name; *byte; byte++)
        if (*byte == '/' || *byte == '\\' || (unsigned char)*byte < 0x20 || *byte == 0x7f) return false;
    return true;
}

w4a16_status w4_index_check(const json_t *index, const char *source, json_t **weight_map) {
    json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map)) return w4_fail(W4A16_ERROR_FORMAT, "%s: 'weight_map' is missing or no object", source);
    if (json_object_size(map) == 0) return w4_fail(W4A16_ERROR_FORMAT, "%s: 'weight_map' is empty", source);
    const char *tensor;
    json_t *value;
    json_object_foreach(map, tensor, value) {
        if (!json_is_string(value))
            return w4_fail(W4A16_ERROR_FORMAT, "%s: weight_map: the file of tensor '%s' is no text", source,
                           w4_safe_text(tensor));
        if (!is_plain_name(json_string_value(value)))
            return w4_fail(W4A16_ERROR_FORMAT,
                           "%s: weight_map: tensor '%s' is said to be in '%s'; a shard must be a plain file name in "
                           "the model's folder",
                           source, w4_safe_text(tensor), w4_safe_text(json_string_value(value)));
    }
    *weight_map = map;
    return W4A16_OK;
}
