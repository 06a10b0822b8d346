/* SPDX-License-Identifier: Apache-2.0
 * Status names, the thread's last error, the log callback, element types and the version. */
#include "core/status.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { TEXT_SIZE = 1024 };

static _Thread_local char last_error[TEXT_SIZE];

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static w4a16_log_callback log_callback;
static void *log_user;

#define STRINGIFY_VALUE(x) #x
#define STRINGIFY(x) STRINGIFY_VALUE(x)

const char *w4a16_version(void) {
    return STRINGIFY(W4A16_VERSION_MAJOR) "." STRINGIFY(W4A16_VERSION_MINOR) "." STRINGIFY(W4A16_VERSION_PATCH);
}

const char *w4a16_status_text(w4a16_status status) {
    switch (status) {
    case W4A16_OK:
        return "success";
    case W4A16_ERROR_INVALID_ARGUMENT:
        return "invalid argument";
    case W4A16_ERROR_OUT_OF_MEMORY:
        return "out of memory";
    case W4A16_ERROR_UNSUPPORTED:
        return "unsupported";
    case W4A16_ERROR_NOT_FOUND:
        return "not found";
    case W4A16_ERROR_IO:
        return "input/output error";
    case W4A16_ERROR_FORMAT:
        return "damaged or contradictory file";
    case W4A16_ERROR_EXISTS:
        return "output exists";
    case W4A16_ERROR_DEVICE:
        return "device error";
    case W4A16_ERROR_WORKSPACE:
        return "unsuitable workspace";
    case W4A16_ERROR_CANCELLED:
        return "cancelled";
    case W4A16_ERROR_INTERNAL:
        return "internal error";
    }
    return "unknown status";
}

const char *w4a16_last_error(void) {
    return last_error;
}

/** Paths and names in a text are other people's: a line end or an escape sequence in them must not reach a terminal or
 * make two lines of one. Bytes of UTF-8 stay. */
static void make_one_line(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

w4a16_status w4_fail(w4a16_status status, const char *format, ...) {
    /* Through a second buffer: an argument may itself be the last error's text. */
    char text[TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    make_one_line(text);
    memcpy(last_error, text, sizeof text);
    return status;
}

w4a16_status w4_fail_context(w4a16_status status, const char *format, ...) {
    char text[TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length >= 0 && length < TEXT_SIZE) snprintf(text + length, sizeof text - (size_t)length, "%s", last_error);
    make_one_line(text);
    memcpy(last_error, text, sizeof text);
    return status;
}

void w4_error_save(w4_saved_error *saved) {
    _Static_assert(sizeof saved->text == sizeof last_error, "one text of the same size");
    memcpy(saved->text, last_error, sizeof last_error);
}

void w4_error_restore(const w4_saved_error *saved) {
    memcpy(last_error, saved->text, sizeof last_error);
}

w4a16_status w4_fail_null(const char *argument) {
    return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "%s is NULL", argument);
}

w4a16_status w4_check_struct(const char *argument, const char *initialiser, size_t found, size_t expected) {
    if (found == expected) return W4A16_OK;
    if (initialiser)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "%s.struct_size is %zu; call %s, which sets %zu", argument, found,
                       initialiser, expected);
    return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "%s.struct_size is %zu; set it to %zu", argument, found, expected);
}

void w4a16_set_log_callback(w4a16_log_callback callback, void *user) {
    pthread_mutex_lock(&log_lock);
    log_callback = callback;
    log_user = user;
    pthread_mutex_unlock(&log_lock);
}

void w4_log(w4a16_log_level level, const char *format, ...) {
    char text[TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    make_one_line(text);
    /* Held during the call: lines come one at a time, and none arrives after the callback was removed. */
    pthread_mutex_lock(&log_lock);
    if (log_callback) log_callback(level, text, log_user);
    pthread_mutex_unlock(&log_lock);
}

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {
    [W4A16_DTYPE_NONE] = {"none", 0},   [W4A16_FP16] = {"fp16", 2},     [W4A16_BF16] = {"bf16", 2},
    [W4A16_FP32] = {"fp32", 4},         [W4A16_FP64] = {"fp64", 8},     [W4A16_UINT8] = {"uint8", 1},
    [W4A16_INT8] = {"int8", 1},         [W4A16_INT16] = {"int16", 2},   [W4A16_INT32] = {"int32", 4},
    [W4A16_INT64] = {"int64", 8},       [W4A16_UINT16] = {"uint16", 2}, [W4A16_UINT32] = {"uint32", 4},
    [W4A16_UINT64] = {"uint64", 8},     [W4A16_BOOL] = {"bool", 1},     [W4A16_FP8_E4M3] = {"fp8_e4m3", 1},
    [W4A16_FP8_E5M2] = {"fp8_e5m2", 1},
};

static size_t dtype_index(w4a16_dtype dtype) {
    size_t index = (size_t)dtype;
    return index < sizeof dtypes / sizeof *dtypes ? index : W4A16_DTYPE_NONE;
}

size_t w4a16_dtype_size(w4a16_dtype dtype) {
    return dtypes[dtype_index(dtype)].size;
}
const char *w4a16_dtype_name(w4a16_dtype dtype) {
    return dtypes[dtype_index(dtype)].name;
}
