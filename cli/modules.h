/* SPDX-License-Identifier: Apache-2.0
 * Which layers of a checkpoint --tensor asks for. */
#ifndef W4A16_CLI_MODULES_H
#define W4A16_CLI_MODULES_H

#include "options.h"

/** The indices of all layers, or of those that `names` names, each once. `indices` is to be freed in any case.
 * @return false after an error line: no such layer, or a checkpoint without quantised layers */
bool choose_modules(const w4a16_checkpoint *checkpoint, const char *path, const text_list *names, size_t **indices,
                    size_t *count);

#endif
