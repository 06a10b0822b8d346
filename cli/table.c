/* SPDX-License-Identifier: Apache-2.0
 * Tables on stdout. */
#include "table.h"

#include "cli.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct table {
    char **cells; /* row by row; the first row is the header */
    size_t count, capacity, columns;
    bool *left;
};

/* Replace what a terminal would obey: C0, DEL, and C1 in UTF-8 (C2 80..9F). */
static void clean(char *text) {
    for (unsigned char *c = (unsigned char *)text; *c; c++) {
        if (*c < 0x20 || *c == 0x7f) *c = '?';
        if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0) c[0] = c[1] = '?';
    }
}

void print_clean(const char *text, FILE *stream) {
    char *copy = format_text("%s", text);
    clean(copy);
    fputs(copy, stream);
    free(copy);
}

/* Characters, not bytes: UTF-8 continuation bytes take no place. */
static size_t width_of(const char *text) {
    size_t width = 0;
    for (; *text; text++) width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static void add_cell(table *self, char *text) {
    if (self->count == self->capacity) {
        self->capacity = self->capacity ? self->capacity * 2 : 64;
        self->cells = reallocate(self->cells, self->capacity, sizeof *self->cells);
    }
    clean(text);
    self->cells[self->count++] = text;
}

table *table_create(const char *headers) {
    table *self = allocate(1, sizeof *self);
    self->columns = 1;
    for (const char *c = headers; *c; c++) self->columns += *c == '|';
    self->left = allocate(self->columns, sizeof *self->left);
    for (size_t column = 0; column < self->columns; column++) {
        size_t length = strcspn(headers, "|");
        self->left[column] = *headers == '<';
        add_cell(self, format_text("%.*s", (int)length - self->left[column], headers + self->left[column]));
        headers += length + 1;
    }
    return self;
}

void table_add(table *self, const char *format, ...) {
    va_list arguments;
    char *text;
    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0) exit(fail("out of memory"));
    va_end(arguments);
    add_cell(self, text);
}

void table_print(const table *self, FILE *stream) {
    if (self->count <= self->columns) return;
    size_t *widths = allocate(self->columns, sizeof *widths);
    for (size_t i = 0; i < self->count; i++) {
        size_t width = width_of(self->cells[i]);
        if (width > widths[i % self->columns]) widths[i % self->columns] = width;
    }
    for (size_t row = 0; row < self->count; row += self->columns) {
        char **cells = self->cells + row;
        size_t used = self->columns; /* no spaces at a line's end */
        while (used > 1 && !*cells[used - 1]) used--;
        for (size_t column = 0; column < used; column++) {
            int padding = (int)(widths[column] - width_of(cells[column]));
            bool last = column + 1 == used;
            if (!self->left[column]) fprintf(stream, "%*s", padding, "");
            fputs(cells[column], stream);
            if (self->left[column] && !last) fprintf(stream, "%*s", padding, "");
            fputs(last ? "\n" : "  ", stream);
        }
    }
    free(widths);
}

void table_destroy(table *self) {
    if (!self) return;
    for (size_t i = 0; i < self->count; i++) free(self->cells[i]);
    free(self->cells);
    free(self->left);
    free(self);
}
