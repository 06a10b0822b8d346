/* SPDX-License-Identifier: Apache-2.0
 * Files: mapped for reading, written aside and renamed. */
#include "core/file.h"

#include "core/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TEMPORARY_NAME_SIZE = 64 };

static w4a16_status fail_errno(const char *what, const char *path) {
    int error = errno;
    w4a16_status status = error == ENOENT ? W4A16_ERROR_NOT_FOUND : W4A16_ERROR_IO;
    return w4_fail(status, "%s: cannot %s: %s", path, what, strerror(error));
}

w4a16_status w4_map_file(const char *path, w4_mapping *mapping) {
    /* O_NONBLOCK: opening a pipe would wait for its writer. Regular files do not care. */
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) return fail_errno("open", path);
    struct stat information;
    if (fstat(descriptor, &information) != 0) {
        w4a16_status status = fail_errno("read its size", path);
        close(descriptor);
        return status;
    }
    if (!S_ISREG(information.st_mode)) {
        close(descriptor);
        return w4_fail(W4A16_ERROR_IO, "%s: is %s; a regular file is needed", path,
                       S_ISDIR(information.st_mode) ? "a folder" : "no regular file");
    }
    w4_mapping result = {NULL, (uint64_t)information.st_size};
    if (result.size) {
        void *data = mmap(NULL, (size_t)result.size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (data == MAP_FAILED) {
            w4a16_status status = fail_errno("map", path);
            close(descriptor);
            return status;
        }
        result.data = data;
    }
    close(descriptor);
    *mapping = result;
    return W4A16_OK;
}

void w4_unmap_file(w4_mapping *mapping) {
    if (mapping->data) munmap((void *)(uintptr_t)mapping->data, (size_t)mapping->size);
    *mapping = (w4_mapping){NULL, 0};
}

bool w4_path_exists(const char *path) {
    struct stat information;
    return lstat(path, &information) == 0;
}

bool w4_is_directory(const char *path) {
    struct stat information;
    return stat(path, &information) == 0 && S_ISDIR(information.st_mode);
}

w4a16_status w4_join_path(const char *directory, const char *name, char **joined) {
    size_t length = strlen(directory);
    const char *separator = length && directory[length - 1] == '/' ? "" : "/";
    size_t size = length + strlen(separator) + strlen(name) + 1;
    void *memory;
    W4_TRY(w4_allocate(size, "a path", &memory));
    snprintf(memory, size, "%s%s%s", directory, separator, name);
    *joined = memory;
    return W4A16_OK;
}

/** `path` without trailing slashes, and room for the name of a sibling: a rename is atomic only within one file system,
 * so the temporary must stand beside its target. */
static w4a16_status sibling_paths(const char *path, char **clean, char **temporary) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    if (length == 0) return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "the output path is empty");
    void *first, *second;
    W4_TRY(w4_allocate(length + 1, "a path", &first));
    w4a16_status status = w4_allocate(length + TEMPORARY_NAME_SIZE, "a path", &second);
    if (status) {
        free(first);
        return status;
    }
    memcpy(first, path, length);
    *clean = first;
    *temporary = second;
    return W4A16_OK;
}

/** Make a file (mode 0666) or folder (0777) under a fresh name beside `path`, as open() and mkdir() make them: the
 * caller's umask applies, which mkstemp and mkdtemp would ignore and which cannot be read without changing it for
 * other threads. The name does not grow with the target's, which may be as long as a name can be.
 * @return a descriptor (0 for a folder), or -1 with errno */
static int create_sibling(const char *path, char *temporary, bool folder) {
    static unsigned counter;
    const char *slash = strrchr(path, '/');
    size_t prefix = slash ? (size_t)(slash + 1 - path) : 0;
    memcpy(temporary, path, prefix);
    for (int attempt = 0; attempt < 1000; attempt++) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        unsigned serial = __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED);
        snprintf(temporary + prefix, TEMPORARY_NAME_SIZE, ".w4a16-%lx-%lx-%x.part", (unsigned long)getpid(),
                 (unsigned long)now.tv_nsec, serial);
        int result = folder ? mkdir(temporary, 0777) : open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (result >= 0 || errno != EEXIST) return result;
    }
    return -1;
}

static w4a16_status fail_exists(const char *path) {
    return w4_fail(W4A16_ERROR_EXISTS, "%s: exists already; remove it or ask to overwrite it", path);
}

w4a16_status w4_output_open(const char *path, bool overwrite, w4_output *output) {
    w4_output result = {-1, NULL, NULL, overwrite};
    *output = result;
    if (w4_is_directory(path)) return w4_fail(W4A16_ERROR_EXISTS, "%s: is a folder; give the path of a file", path);
    if (!overwrite && w4_path_exists(path)) return fail_exists(path);
    struct stat information; /* renaming over a device or a pipe would delete it */
    if (stat(path, &information) == 0 && !S_ISREG(information.st_mode))
        return w4_fail(W4A16_ERROR_EXISTS, "%s: is no regular file; it is not replaced", path);
    W4_TRY(sibling_paths(path, &result.path, &result.temporary));
    result.descriptor = create_sibling(result.path, result.temporary, false);
    if (result.descriptor < 0) {
        w4a16_status status = fail_errno("create a file beside", path);
        free(result.path);
        free(result.temporary);
        return status;
    }
    *output = result;
    return W4A16_OK;
}

w4a16_status w4_output_write(w4_output *output, const void *data, uint64_t size) {
    const char *bytes = data;
    while (size > 0) {
        size_t part = size < (1u << 30) ? (size_t)size : (1u << 30);
        ssize_t written = write(output->descriptor, bytes, part);
        if (written < 0) {
            if (errno == EINTR) continue;
            return fail_errno("write", output->path);
        }
        bytes += written;
        size -= (uint64_t)written;
    }
    return W4A16_OK;
}

/** rename(), but without `overwrite` an existing target stays: it may have appeared while we were writing. */
static int rename_into_place(const char *from, const char *to, bool overwrite) {
    if (overwrite) return rename(from, to);
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return -1;
    if (w4_path_exists(to)) { /* a file system without RENAME_NOREPLACE */
        errno = EEXIST;
        return -1;
    }
    return rename(from, to);
}

/** Make the rename itself durable. Some file systems cannot sync a folder; the data is safe all the same. */
static void sync_parent(const char *path) {
    char *copy;
    if (w4_copy_text(path, &copy)) return;
    char *slash = strrchr(copy, '/');
    const char *parent = !slash ? "." : slash == copy ? "/" : copy;
    if (slash && slash != copy) *slash = 0;
    int descriptor = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor >= 0) {
        (void)fsync(descriptor);
        close(descriptor);
    }
    free(copy);
}

w4a16_status w4_output_commit(w4_output *output) {
    w4a16_status status = W4A16_OK;
    int failed = fsync(output->descriptor);
    if (failed) status = fail_errno("flush", output->path);
    failed = close(output->descriptor);
    output->descriptor = -1;
    if (!status && failed) status = fail_errno("close", output->path);
    if (!status && rename_into_place(output->temporary, output->path, output->overwrite))
        status = errno == EEXIST ? fail_exists(output->path) : fail_errno("rename its temporary", output->path);
    if (!status) {
        sync_parent(output->path);
        free(output->temporary);
        output->temporary = NULL;
    }
    w4_output_abandon(output);
    return status;
}

void w4_output_abandon(w4_output *output) {
    if (output->descriptor >= 0) close(output->descriptor);
    if (output->temporary) unlink(output->temporary);
    free(output->temporary);
    free(output->path);
    *output = (w4_output){-1, NULL, NULL, false};
}

w4a16_status w4_output_directory_open(const char *path, bool overwrite, w4_output_directory *output) {
    w4_output_directory result = {NULL, NULL, overwrite};
    *output = result;
    if (w4_path_exists(path)) {
        if (!overwrite) return fail_exists(path);
        if (!w4_is_directory(path))
            return w4_fail(W4A16_ERROR_EXISTS, "%s: is a file; the output of a folder is a folder", path);
    }
    W4_TRY(sibling_paths(path, &result.path, &result.staging));
    if (create_sibling(result.path, result.staging, true) < 0) {
        w4a16_status status = fail_errno("create a folder beside", path);
        free(result.path);
        free(result.staging);
        return status;
    }
    *output = result;
    return W4A16_OK;
}

static int remove_entry(const char *path, const struct stat *information, int type, struct FTW *walk) {
    (void)information, (void)type, (void)walk;
    return remove(path);
}

static void remove_tree(const char *path) {
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

w4a16_status w4_output_directory_commit(w4_output_directory *output) {
    w4a16_status status = W4A16_OK;
    if (output->overwrite && w4_path_exists(output->path)) {
        /* Swap, so that the path holds the old or the new folder at every moment; then drop the old one. */
        if (renameat2(AT_FDCWD, output->staging, AT_FDCWD, output->path, RENAME_EXCHANGE))
            status = fail_errno("replace", output->path);
    } else if (rename_into_place(output->staging, output->path, false)) {
        status = errno == EEXIST ? fail_exists(output->path) : fail_errno("rename its temporary", output->path);
    }
    if (!status) sync_parent(output->path);
    w4_output_directory_abandon(output); /* after a swap the staging name holds the old folder */
    return status;
}

void w4_output_directory_abandon(w4_output_directory *output) {
    if (output->staging && w4_path_exists(output->staging)) remove_tree(output->staging);
    free(output->staging);
    free(output->path);
    *output = (w4_output_directory){NULL, NULL, false};
}

w4a16_status w4_write_file(const char *path, bool overwrite, const void *data, uint64_t size) {
    w4_output output;
    W4_TRY(w4_output_open(path, overwrite, &output));
    w4a16_status status = w4_output_write(&output, data, size);
    if (!status) return w4_output_commit(&output);
    w4_output_abandon(&output);
    return status;
}

w4a16_status w4_copy_file(const char *source, const char *target) {
    w4_mapping mapping;
    W4_TRY(w4_map_file(source, &mapping));
    w4a16_status status = w4_write_file(target, false, mapping.data, mapping.size);
    w4_unmap_file(&mapping);
    return status;
}

w4a16_status w4_lock_file(const char *path, int *descriptor) {
    size_t size = strlen(path) + sizeof ".lock";
    void *memory;
    W4_TRY(w4_allocate(size, "a path", &memory));
    char *name = memory;
    snprintf(name, size, "%s.lock", path);
    int opened = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    int failed = opened < 0;
    while (!failed && flock(opened, LOCK_EX)) failed = errno != EINTR;
    w4a16_status status = failed ? fail_errno("lock", name) : W4A16_OK;
    if (failed && opened >= 0) close(opened);
    free(name);
    if (!status) *descriptor = opened;
    return status;
}

void w4_unlock_file(int descriptor) {
    close(descriptor); /* the last descriptor of it gives the lock back */
}
