/* SPDX-License-Identifier: Apache-2.0
 * Runs a fuzz target once on each file of the folders given, and on the empty input: stands in for libFuzzer where the
 * compiler has none, so that every build replays the known inputs. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) {
        fprintf(stderr, "cannot read %s\n", path);
        if (file) fclose(file);
        return 1;
    }
    long size = ftell(file);
    rewind(file);
    /* Exactly as large as the input, so that a sanitizer sees a read past its end. */
    uint8_t *data = malloc(size > 0 ? (size_t)size : 1);
    int failed = size < 0 || !data || fread(data, 1, (size_t)size, file) != (size_t)size;
    fclose(file);
    if (failed)
        fprintf(stderr, "cannot read %s\n", path);
    else
        LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
    return failed;
}

static int run_folder(const char *folder, int *count) {
    DIR *directory = opendir(folder);
    if (!directory) {
        fprintf(stderr, "cannot open %s\n", folder);
        return 1;
    }
    int failed = 0;
    for (struct dirent *entry = readdir(directory); entry; entry = readdir(directory)) {
        char path[4096];
        if (entry->d_name[0] == '.') continue;
        if (snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= (int)sizeof path) {
            failed = 1;
            continue;
        }
        failed |= run_file(path);
        ++*count;
    }
    closedir(directory);
    return failed;
}

int main(int argc, char **argv) {
    int failed = 0, count = 0;
    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    for (int i = 1; i < argc; ++i) failed |= run_folder(argv[i], &count);
    printf("%d inputs\n", count);
    return failed;
}
