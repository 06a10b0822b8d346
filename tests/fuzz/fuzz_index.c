/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as model.safetensors.index.json, as config.json and as a quantize_config.json. */
#include "format/quantization.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_config(const json_t *object, bool standalone) {
    w4_quantization quantization = {.group_size_count = 0};
    if (w4_quantization_parse(object, standalone, "input", &quantization)) {
        if (quantization.known || strchr(w4a16_last_error(), '\n')) abort();
        return;
    }
    if (!quantization.known || quantization.group_size_count > W4_LARGEST_GROUP_SIZES) abort();
    for (int i = 0; i < quantization.group_size_count; i++)
        if (quantization.group_sizes[i] != -1 && quantization.group_sizes[i] < 1) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *json, *weight_map, *file;
    const char *tensor;
    if (w4_json_parse(data, size, "input", &json)) {
        if (strchr(w4a16_last_error(), '\n')) abort();
        return 0;
    }
    if (w4_index_check(json, "input", &weight_map) == W4A16_OK) {
        json_object_foreach(weight_map, tensor, file) if (strchr(json_string_value(file), '/')) abort();
    }
    check_config(json, true);
    const json_t *config = json_object_get(json, "quantization_config");
    if (config) check_config(config, false);
    json_decref(json);
    return 0;
}
