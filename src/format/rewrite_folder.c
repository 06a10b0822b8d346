/* SPDX-License-Identifier: Apache-2.0
 * What stands around the tensors of a model folder: config.json is edited, everything else copied. */
#include "format/rewrite.h"

#include "core/memory.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { DEEPEST_FOLDER = 32 }; /* a folder linked into itself ends here */

w4a16_status w4_json_write(const char *path, const json_t *json) {
    char *text = json_dumps(json, JSON_INDENT(2));
    if (!text) return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: %s", path);
    size_t length = strlen(text);
    text[length] = '\n'; /* a file's last line ends, too */
    w4a16_status status = w4_write_file(path, false, text, length + 1);
    free(text);
    return status;
}

/** Files at the top of the input folder that the output has in its own version, or must not have. */
static bool is_replaced(const w4a16_checkpoint *input, const char *name) {
    for (size_t i = 0; i < input->file_count; i++)
        if (strcmp(input->file_names[i], name) == 0) return true;
    return strcmp(name, "config.json") == 0 || strcmp(name, "model.safetensors.index.json") == 0 ||
           w4_is_quantization_file(name);
}

/** Version control and download caches hold the old weights once more; they are no part of a model. */
static bool is_bookkeeping(const char *name) {
    return strcmp(name, ".git") == 0 || strcmp(name, ".cache") == 0;
}

/** @param input NULL below the top folder: everything is copied there */
static w4a16_status copy_entries(const char *source, const char *target, const w4a16_checkpoint *input, int depth);

static w4a16_status copy_entry(const char *source, const char *target, int depth) {
    struct stat information;
    if (stat(source, &information) != 0)
        return w4_fail(W4A16_ERROR_IO, "%s: cannot be read: %s", source, strerror(errno));
    if (S_ISREG(information.st_mode)) return w4_copy_file(source, target);
    if (!S_ISDIR(information.st_mode)) {
        w4_log(W4A16_LOG_WARNING, "%s: is neither file nor folder; not copied", source);
        return W4A16_OK;
    }
    if (depth == DEEPEST_FOLDER)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "%s: more than %d folders deep", source, DEEPEST_FOLDER);
    if (mkdir(target, 0777) != 0)
        return w4_fail(W4A16_ERROR_IO, "%s: cannot create the folder: %s", target, strerror(errno));
    return copy_entries(source, target, NULL, depth + 1);
}

static w4a16_status copy_entries(const char *source, const char *target, const w4a16_checkpoint *input, int depth) {
    DIR *directory = opendir(source);
    if (!directory) return w4_fail(W4A16_ERROR_IO, "%s: cannot list the folder: %s", source, strerror(errno));
    w4a16_status status = W4A16_OK;
    for (struct dirent *entry = readdir(directory); entry && !status; entry = readdir(directory)) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || is_bookkeeping(name)) continue;
        if (input && is_replaced(input, name)) continue;
        char *from, *to;
        status = w4_join_path(source, name, &from);
        if (status) break;
        status = w4_join_path(target, name, &to);
        if (!status) {
            status = copy_entry(from, to, depth);
            free(to);
        }
        free(from);
    }
    closedir(directory);
    return status;
}

/** The input's config.json, or an empty object where it has none. */
static w4a16_status read_config(const char *directory, json_t **json) {
    char *path;
    W4_TRY(w4_join_path(directory, "config.json", &path));
    w4a16_status status = W4A16_OK;
    if (w4_path_exists(path)) {
        status = w4_json_read(path, json);
        if (!status && !json_is_object(*json)) {
            json_decref(*json);
            status = w4_fail(W4A16_ERROR_FORMAT, "%s: is no JSON object", path);
        }
    } else {
        *json = json_object();
        if (!*json) status = w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: %s", path);
    }
    free(path);
    return status;
}

w4a16_status w4_carry_folder(const w4_rewrite_plan *plan, const json_t *config, const char *target) {
    json_t *model;
    W4_TRY(read_config(plan->input->path, &model));
    json_object_del(model, "compression_config"); /* an older name of the same */
    json_t *copy = json_deep_copy(config);
    char *path = NULL;
    w4a16_status status = W4A16_OK;
    if (json_object_set_new(model, "quantization_config", copy))
        status = w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: config.json");
    if (!status) status = w4_join_path(target, "config.json", &path);
    if (!status) status = w4_json_write(path, model);
    free(path);
    json_decref(model);
    if (status) return status;
    return copy_entries(plan->input->path, target, plan->input, 0);
}

/** Is `inner` the same path as `outer` or below it? Both absolute and resolved. */
static bool is_within(const char *inner, const char *outer) {
    size_t length = strlen(outer);
    if (strcmp(outer, "/") == 0) return true;
    return strncmp(inner, outer, length) == 0 && (inner[length] == 0 || inner[length] == '/');
}

/** The absolute path of an output that may not exist yet; NULL if not even its folder does (opening it will say so).
 */
static char *resolve_output(const char *output) {
    char *resolved = realpath(output, NULL);
    if (resolved) return resolved;
    char *copy = NULL, *parent = NULL;
    if (w4_copy_text(output, &copy)) return NULL;
    size_t length = strlen(copy);
    while (length > 1 && copy[length - 1] == '/') copy[--length] = 0;
    char *slash = strrchr(copy, '/');
    const char *name = slash ? slash + 1 : copy;
    if (!slash) {
        parent = realpath(".", NULL);
    } else if (slash == copy) {
        parent = realpath("/", NULL);
    } else {
        *slash = 0;
        parent = realpath(copy, NULL);
    }
    resolved = NULL;
    if (parent && w4_join_path(parent, name, &resolved)) resolved = NULL;
    free(parent);
    free(copy);
    return resolved;
}

w4a16_status w4_check_output(const char *input, const char *output) {
    char *from = realpath(input, NULL), *to = from ? resolve_output(output) : NULL;
    w4a16_status status = W4A16_OK;
    if (from && to) {
        if (strcmp(from, to) == 0)
            status = w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "output '%s' is the input itself", output);
        else if (w4_is_directory(from) && is_within(to, from))
            status = w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "output '%s' lies inside the input '%s'", output, input);
        else if (is_within(from, to))
            status = w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "input '%s' lies inside the output '%s'", input, output);
    }
    free(from);
    free(to);
    return status;
}
