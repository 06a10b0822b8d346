/* SPDX-License-Identifier: Apache-2.0
 * JSON output, through jansson. */
#ifndef W4A16_CLI_REPORT_H
#define W4A16_CLI_REPORT_H

#include <jansson.h>

/** object[key] = value (taken over); ends the program with an error line where there is no memory. */
void json_put(json_t *object, const char *key, json_t *value);
/** The same for text that may not be valid UTF-8 (then written with '?'). */
void json_put_text(json_t *object, const char *key, const char *text);
/** A number, or null where JSON has none for it (NaN, infinity). */
json_t *json_number(double value);
/** Print to stdout, indented, with a line end, and free. @return the exit code */
int json_print(json_t *root);

#endif
