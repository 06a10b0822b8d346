/* SPDX-License-Identifier: Apache-2.0
 * Canonical form <-> the packed layout of kernels/common/packed_layout.h. */
#ifndef W4_PACK_FRAGMENT_H
#define W4_PACK_FRAGMENT_H

#include "core/matrix.h"
#include "pack_params.h"

#include <stdbool.h>

/** The layout of this matrix. */
w4_packed_layout w4_fragment_layout(const w4_matrix *matrix);

/** Write layout.bytes bytes; padding included. */
void w4_fragment_pack(const w4_matrix *matrix, const w4_packed_layout *layout, uint8_t *packed);

/** Fill the codes and zeros (if there are arrays for them) and scales; padding is not looked at. */
void w4_fragment_unpack(const uint8_t *packed, const w4_packed_layout *layout, w4_matrix *matrix);

/** Whether the padding holds what w4_fragment_pack writes, where scales and zeros were unpacked into `matrix`. */
bool w4_fragment_is_padded(const uint8_t *packed, const w4_packed_layout *layout, const w4_matrix *matrix);

/** w4_fragment_pack's work as the packing kernel's arguments; `packed` is the caller's to set. */
w4_pack_params w4_fragment_pack_params(const w4_matrix *matrix);

#endif
