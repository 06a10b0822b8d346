/* SPDX-License-Identifier: Apache-2.0
 * JSON output. */
#include "report.h"

#include "cli.h"

#include <math.h>
#include <stdlib.h>

void json_put(json_t *object, const char *key, json_t *value) {
    if (json_object_set_new(object, key, value)) exit(fail("out of memory"));
}

void json_put_text(json_t *object, const char *key, const char *text) {
    json_t *value = json_string(text);
    if (!value) { /* not UTF-8 */
        char *copy = format_text("%s", text);
        for (unsigned char *c = (unsigned char *)copy; *c; c++) {
            if (*c >= 0x80) *c = '?';
        }
        value = json_string(copy);
        free(copy);
    }
    json_put(object, key, value);
}

json_t *json_number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

int json_print(json_t *root) {
    int failed = json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(10));
    putchar('\n');
    json_decref(root);
    /* A write that failed is reported once, when stdout is flushed at the end. */
    return failed && !ferror(stdout) ? fail("cannot write JSON") : 0;
}
