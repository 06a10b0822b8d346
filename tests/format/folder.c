/* SPDX-License-Identifier: Apache-2.0
 * Folders and files for the format tests. */
#include "format/folder.h"

#include <dirent.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

int folder_create(void **state) {
    const char *parent = getenv("TMPDIR");
    char path[4096];
    snprintf(path, sizeof path, "%s/w4a16-format-XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp(path)) return -1;
    *state = strdup(path);
    return *state ? 0 : -1;
}

static int temporaries;

static int remove_entry(const char *path, const struct stat *information, int type, struct FTW *walk) {
    (void)information, (void)type;
    if (path[walk->base] == '.') temporaries++;
    return remove(path);
}

int folder_remove(void **state) {
    temporaries = 0;
    nftw(*state, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return temporaries;
}

const char *folder_path(const char *folder, const char *name) {
    static char buffers[4][4096];
    static int next;
    char *buffer = buffers[next++ % 4];
    snprintf(buffer, sizeof buffers[0], "%s/%s", folder, name);
    return buffer;
}

void write_bytes(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

void write_text(const char *path, const char *text) {
    write_bytes(path, text, strlen(text));
}

void write_raw(const char *path, const char *header, size_t data_size, unsigned long long length) {
    size_t text = strlen(header), size = 8 + text + data_size;
    unsigned char *bytes = calloc(1, size);
    assert_non_null(bytes);
    if (length == 0) length = text;
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(length >> 8 * i);
    memcpy(bytes + 8, header, text);
    write_bytes(path, bytes, size);
    free(bytes);
}

int count_entries(const char *folder) {
    DIR *directory = opendir(folder);
    assert_non_null(directory);
    int count = 0;
    for (struct dirent *entry = readdir(directory); entry; entry = readdir(directory))
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(directory);
    return count;
}
