/* SPDX-License-Identifier: Apache-2.0
 * Which layers of a checkpoint --tensor asks for. */
#include "modules.h"

bool choose_modules(const w4a16_checkpoint *checkpoint, const char *path, const text_list *names, size_t **indices,
                    size_t *count) {
    size_t all = w4a16_checkpoint_count(checkpoint);
    *indices = allocate(all + 1, sizeof **indices);
    *count = 0;
    if (!all) {
        fail("%s holds no quantised layers; see w4a16 quantize", path);
        return false;
    }
    for (size_t i = 0; i < all && !names->count; i++) (*indices)[(*count)++] = i;
    for (size_t i = 0; i < names->count; i++) {
        size_t index, seen = 0;
        if (w4a16_checkpoint_find(checkpoint, names->items[i], &index)) {
            fail_library();
            return false;
        }
        while (seen < *count && (*indices)[seen] != index) seen++;
        if (seen == *count) (*indices)[(*count)++] = index;
    }
    return true;
}
