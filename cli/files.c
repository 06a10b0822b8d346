/* SPDX-License-Identifier: Apache-2.0
 * Output paths: refused early where they cannot be meant, text files written aside and renamed. */
#include "cli.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool output_allowed(const char *path, bool force) {
    struct stat status;
    if (!*path) {
        fail("--output: the path is empty");
        return false;
    }
    if (stat(path, &status)) {
        if (errno == ENOENT || errno == ENOTDIR) return true; /* opening it says what is missing */
        fail("%s: %s", path, strerror(errno));
        return false;
    }
    /* Renaming a file over /dev/null or a pipe would destroy it, also with --force. */
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) {
        fail("%s is neither a file nor a folder; give the path of a file", path);
        return false;
    }
    if (!force) {
        fail("%s exists already; give another path, or --force to replace it", path);
        return false;
    }
    return true;
}

static uint64_t folder_bytes(const char *path, int depth) {
    uint64_t sum = 0;
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        char *inner = format_text("%s/%s", path, entry->d_name);
        struct stat status;
        if (!stat(inner, &status)) {
            if (S_ISREG(status.st_mode)) {
                sum += (uint64_t)status.st_size;
            } else if (S_ISDIR(status.st_mode) && depth < 8) { /* a link may lead upwards */
                sum += folder_bytes(inner, depth + 1);
            }
        }
        free(inner);
    }
    if (folder) closedir(folder);
    return sum;
}

uint64_t path_bytes(const char *path) {
    struct stat status;
    if (stat(path, &status)) return 0;
    return S_ISDIR(status.st_mode) ? folder_bytes(path, 0) : (uint64_t)status.st_size;
}

static bool text_output_fail(text_output *output, const char *action) {
    int reason = errno;
    if (output->stream) fclose(output->stream);
    unlink(output->temporary);
    free(output->temporary);
    output->stream = NULL;
    output->temporary = NULL;
    fail("%s: cannot %s: %s", output->path, action, strerror(reason));
    return false;
}

bool text_output_open(const char *path, bool force, text_output *output) {
    *output = (text_output){.path = path, .force = force};
    if (!output_allowed(path, force)) return false;
    output->temporary = format_text("%s.XXXXXX", path);
    int descriptor = mkstemp(output->temporary);
    if (descriptor < 0) return text_output_fail(output, "create a file there");
    mode_t mask = umask(0);
    umask(mask);
    /* mkstemp makes the file private; give it the permissions that the user's other files have. */
    if (fchmod(descriptor, 0666 & ~mask) || !(output->stream = fdopen(descriptor, "w"))) {
        close(descriptor);
        return text_output_fail(output, "create a file there");
    }
    return true;
}

bool text_output_commit(text_output *output) {
    if (fflush(output->stream) || fsync(fileno(output->stream))) return text_output_fail(output, "write");
    FILE *stream = output->stream;
    output->stream = NULL;
    if (fclose(stream)) return text_output_fail(output, "write");
    unsigned flags = output->force ? 0 : RENAME_NOREPLACE;
    int failed = renameat2(AT_FDCWD, output->temporary, AT_FDCWD, output->path, flags);
    if (failed && errno == EINVAL) failed = rename(output->temporary, output->path); /* a file system without it */
    if (failed) return text_output_fail(output, "rename the finished file to it");
    free(output->temporary);
    output->temporary = NULL;
    return true;
}

void text_output_abandon(text_output *output) {
    if (!output->temporary) return;
    if (output->stream) fclose(output->stream);
    unlink(output->temporary);
    free(output->temporary);
    *output = (text_output){0};
}
