/* SPDX-License-Identifier: Apache-2.0
 * Tables on stdout: columns as wide as their widest cell. */
#ifndef W4A16_CLI_TABLE_H
#define W4A16_CLI_TABLE_H

#include <stdio.h>

typedef struct table table;

/** @param headers one per column, separated by '|'; a leading '<' aligns a column left, otherwise right. */
table *table_create(const char *headers);
/** Add the next cell, row by row. Control characters (they may come from a file) are shown as '?'. */
void table_add(table *self, const char *format, ...) __attribute__((format(printf, 2, 3)));
/** Print the header and the rows, or nothing where there are no rows. */
void table_print(const table *self, FILE *stream);
void table_destroy(table *self);

/** Print one text with control characters shown as '?'. */
void print_clean(const char *text, FILE *stream);

#endif
