/* SPDX-License-Identifier: Apache-2.0
 * Errors are values that carry their text: every failing path returns w4_fail(...). */
#ifndef W4_CORE_STATUS_H
#define W4_CORE_STATUS_H

#include "w4a16.h"

/** Set the calling thread's last error and return `status`. One line, no line end: the argument (or the file and
 * tensor), what it was, what would be right. */
w4a16_status w4_fail(w4a16_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** Put a prefix ("FILE: tensor 'X': ") before the text of the error just set; returns `status`. */
w4a16_status w4_fail_context(w4a16_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** INVALID_ARGUMENT: "ARGUMENT is NULL". */
w4a16_status w4_fail_null(const char *argument);

/** INVALID_ARGUMENT where a public struct's struct_size is not what this library's header says. `initialiser`: the
 * function that sets it, or NULL for a plain output, whose caller sets it. */
w4a16_status w4_check_struct(const char *argument, const char *initialiser, size_t found, size_t expected);

/** Calls that succeed leave the last error alone: one that tries what may fail saves it before, and restores it. */
typedef struct w4_saved_error {
    char text[1024];
} w4_saved_error;
void w4_error_save(w4_saved_error *saved);
void w4_error_restore(const w4_saved_error *saved);

/** Send one line to the log callback, if there is one. */
void w4_log(w4a16_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/** Return early with a status that is not W4A16_OK. */
#define W4_TRY(expression)                                                                                             \
    do {                                                                                                               \
        w4a16_status w4_try_status = (expression);                                                                     \
        if (w4_try_status != W4A16_OK) return w4_try_status;                                                           \
    } while (0)

#endif
