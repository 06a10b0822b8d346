/* SPDX-License-Identifier: Apache-2.0
 * The entry points of a config: activations times kinds of zero points. W4_ENTRY(name, suffix, is_bf16, zero) makes
 * one. */
W4_ENTRY(W4_CONFIG_NAME, fp16, false, W4_PARAM_SYMMETRIC)
W4_ENTRY(W4_CONFIG_NAME, bf16, true, W4_PARAM_SYMMETRIC)
W4_ENTRY(W4_CONFIG_NAME, fp16_integer_zeros, false, W4_PARAM_ZERO_INTEGER)
W4_ENTRY(W4_CONFIG_NAME, bf16_integer_zeros, true, W4_PARAM_ZERO_INTEGER)
#if W4_FLOAT_ZEROS == 1
W4_ENTRY(W4_CONFIG_NAME, fp16_float_zeros, false, W4_PARAM_ZERO_FLOAT)
W4_ENTRY(W4_CONFIG_NAME, bf16_float_zeros, true, W4_PARAM_ZERO_FLOAT)
#endif
