/* SPDX-License-Identifier: Apache-2.0
 * Opening a checkpoint: which files make up a model, and one sorted index over all of their tensors. */
#include "core/memory.h"
#include "format/checkpoint.h"
#include "format/module.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char MODEL_FILE[] = "model.safetensors";
static const char INDEX_FILE[] = "model.safetensors.index.json";
static const char SUFFIX[] = ".safetensors";

/** Grow the file list by one and open it; `name` is copied. */
static w4a16_status add_file(w4a16_checkpoint *checkpoint, const char *name) {
    char *path;
    W4_TRY(w4_join_path(checkpoint->path, name, &path));
    size_t count = checkpoint->file_count;
    w4a16_status status = W4A16_OK;
    void *files = realloc(checkpoint->files, (count + 1) * sizeof *checkpoint->files);
    if (files) checkpoint->files = files;
    void *names = realloc(checkpoint->file_names, (count + 1) * sizeof *checkpoint->file_names);
    if (names) checkpoint->file_names = names;
    if (!files || !names)
        status = w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "%s: out of memory for its files", checkpoint->path);
    if (!status) status = w4_copy_text(name, &checkpoint->file_names[count]);
    if (!status) {
        status = w4a16_tensor_file_open(path, &checkpoint->files[count]);
        if (status)
            free(checkpoint->file_names[count]);
        else
            checkpoint->file_count++;
    }
    free(path);
    return status;
}

static w4a16_status find_shard(w4a16_checkpoint *checkpoint, const char *name, const char *index_path,
                               w4a16_tensor_file **file) {
    for (size_t i = 0; i < checkpoint->file_count; i++) {
        if (strcmp(checkpoint->file_names[i], name) == 0) {
            *file = checkpoint->files[i];
            return W4A16_OK;
        }
    }
    w4a16_status status = add_file(checkpoint, name);
    if (status == W4A16_ERROR_NOT_FOUND)
        return w4_fail(status, "%s: the shard '%s' that it names is missing", index_path, name);
    W4_TRY(status);
    *file = checkpoint->files[checkpoint->file_count - 1];
    return W4A16_OK;
}

static w4a16_status open_shards(w4a16_checkpoint *checkpoint, const char *index_path) {
    json_t *index, *weight_map, *value;
    const char *tensor;
    checkpoint->has_index = true;
    W4_TRY(w4_json_read(index_path, &index));
    w4a16_status status = w4_index_check(index, index_path, &weight_map);
    if (!status) {
        json_object_foreach(weight_map, tensor, value) {
            w4a16_tensor_file *file = NULL;
            w4a16_tensor found;
            status = find_shard(checkpoint, json_string_value(value), index_path, &file);
            if (status) break;
            if (w4a16_tensor_file_find(file, tensor, &found)) {
                status = w4_fail(W4A16_ERROR_FORMAT, "%s: weight_map puts tensor '%s' in '%s', which does not hold it",
                                 index_path, w4_safe_text(tensor), json_string_value(value));
                break;
            }
        }
    }
    json_decref(index);
    return status;
}

/** The one *.safetensors file of a folder that has no conventional name. */
static w4a16_status open_only_file(w4a16_checkpoint *checkpoint) {
    DIR *directory = opendir(checkpoint->path);
    if (!directory) return w4_fail(W4A16_ERROR_IO, "%s: cannot list the folder: %s", checkpoint->path, strerror(errno));
    char *name = NULL;
    int count = 0;
    w4a16_status status = W4A16_OK;
    for (struct dirent *entry = readdir(directory); entry && !status; entry = readdir(directory)) {
        size_t length = strlen(entry->d_name), suffix = sizeof SUFFIX - 1;
        if (entry->d_name[0] == '.' || length <= suffix || strcmp(entry->d_name + length - suffix, SUFFIX) != 0)
            continue;
        if (count++ == 0) status = w4_copy_text(entry->d_name, &name);
    }
    closedir(directory);
    if (!status && count != 1)
        status = w4_fail(count ? W4A16_ERROR_FORMAT : W4A16_ERROR_NOT_FOUND,
                         "%s: %d .safetensors files and neither %s nor %s; exactly one file is needed then",
                         checkpoint->path, count, MODEL_FILE, INDEX_FILE);
    if (!status) status = add_file(checkpoint, name);
    free(name);
    return status;
}

static w4a16_status open_folder(w4a16_checkpoint *checkpoint) {
    char *model, *index;
    W4_TRY(w4_join_path(checkpoint->path, MODEL_FILE, &model));
    w4a16_status status = w4_join_path(checkpoint->path, INDEX_FILE, &index);
    if (!status) {
        if (w4_path_exists(model))
            status = add_file(checkpoint, MODEL_FILE);
        else if (w4_path_exists(index))
            status = open_shards(checkpoint, index);
        else
            status = open_only_file(checkpoint);
        free(index);
    }
    free(model);
    return status;
}

/** A single file: the list has it under the name by which it was opened. */
static w4a16_status adopt_file(w4a16_checkpoint *checkpoint, w4a16_tensor_file *file) {
    checkpoint->files = calloc(1, sizeof *checkpoint->files);
    checkpoint->file_names = calloc(1, sizeof *checkpoint->file_names);
    if (!checkpoint->files || !checkpoint->file_names ||
        w4_copy_text(checkpoint->path, &checkpoint->file_names[0]) != W4A16_OK) {
        w4a16_tensor_file_close(file);
        return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "%s: out of memory for its files", checkpoint->path);
    }
    checkpoint->files[0] = file;
    checkpoint->file_count = 1;
    return W4A16_OK;
}

static int compare_refs(const void *left, const void *right) {
    return strcmp(((const w4_tensor_ref *)left)->tensor->name, ((const w4_tensor_ref *)right)->tensor->name);
}

static w4a16_status index_tensors(w4a16_checkpoint *checkpoint) {
    size_t count = 0;
    for (size_t i = 0; i < checkpoint->file_count; i++) count += checkpoint->files[i]->count;
    void *memory;
    W4_TRY(w4_allocate(count * sizeof *checkpoint->tensors, "the tensor index", &memory));
    checkpoint->tensors = memory;
    checkpoint->tensor_count = count;
    w4_tensor_ref *next = checkpoint->tensors;
    for (size_t i = 0; i < checkpoint->file_count; i++)
        for (size_t j = 0; j < checkpoint->files[i]->count; j++)
            *next++ = (w4_tensor_ref){&checkpoint->files[i]->tensors[j], checkpoint->files[i]};
    qsort(checkpoint->tensors, count, sizeof *checkpoint->tensors, compare_refs);
    for (size_t i = 1; i < count; i++)
        if (compare_refs(&checkpoint->tensors[i - 1], &checkpoint->tensors[i]) == 0)
            return w4_fail(W4A16_ERROR_FORMAT, "%s: tensor '%s' stands in '%s' too", checkpoint->tensors[i].file->path,
                           checkpoint->tensors[i].tensor->name, checkpoint->tensors[i - 1].file->path);
    return W4A16_OK;
}

/** What a file says about itself: the output of a conversion of one file carries its config there. */
static w4a16_status read_metadata(w4a16_checkpoint *checkpoint) {
    for (size_t i = 0; i < checkpoint->file_count && !checkpoint->quantization.known; i++) {
        const w4a16_tensor_file *file = checkpoint->files[i];
        const char *text = w4_tensor_file_metadata(file, "quantization_config");
        if (!text) continue;
        json_t *json;
        w4a16_status status = w4_json_parse(text, strlen(text), file->path, &json);
        if (status) return w4_fail_context(status, "__metadata__ of ");
        status = w4_quantization_parse(json, false, file->path, &checkpoint->quantization);
        json_decref(json);
        W4_TRY(status);
    }
    return W4A16_OK;
}

static w4a16_status find_quantization(w4a16_checkpoint *checkpoint) {
    if (checkpoint->is_folder) {
        W4_TRY(w4_quantization_find(checkpoint->path, &checkpoint->quantization));
        return read_metadata(checkpoint);
    }
    W4_TRY(read_metadata(checkpoint));
    if (checkpoint->quantization.known) return W4A16_OK;
    char *directory;
    W4_TRY(w4_copy_text(checkpoint->path, &directory));
    char *slash = strrchr(directory, '/');
    if (slash) slash[slash == directory] = 0; /* "/name" stands in "/" */
    w4a16_status status = w4_quantization_find(slash ? directory : ".", &checkpoint->quantization);
    free(directory);
    return status;
}

static w4a16_status create(const char *path, w4a16_checkpoint **checkpoint) {
    void *memory;
    W4_TRY(w4_allocate(sizeof **checkpoint, "a checkpoint", &memory));
    w4a16_checkpoint *result = memory;
    result->quantization.symmetric = -1;
    w4a16_status status = w4_copy_text(path, &result->path);
    if (status)
        free(result);
    else
        *checkpoint = result;
    return status;
}

w4a16_status w4_checkpoint_from_file(w4a16_tensor_file *file, w4a16_checkpoint **checkpoint) {
    w4a16_checkpoint *result = NULL;
    w4a16_status status = create(file->path, &result);
    if (status) {
        w4a16_tensor_file_close(file);
        return status;
    }
    status = adopt_file(result, file);
    if (!status) status = index_tensors(result);
    if (!status) status = read_metadata(result);
    if (!status) status = w4_find_modules(result);
    if (status)
        w4a16_checkpoint_close(result);
    else
        *checkpoint = result;
    return status;
}

static w4a16_status open_file(w4a16_checkpoint *checkpoint) {
    w4a16_tensor_file *file;
    W4_TRY(w4a16_tensor_file_open(checkpoint->path, &file));
    return adopt_file(checkpoint, file);
}

w4a16_status w4a16_checkpoint_open(const char *path, w4a16_checkpoint **checkpoint) {
    if (!path) return w4_fail_null("path");
    if (!checkpoint) return w4_fail_null("checkpoint");
    w4a16_checkpoint *result = NULL;
    W4_TRY(create(path, &result));
    result->is_folder = w4_is_directory(path);
    w4a16_status status = result->is_folder ? open_folder(result) : open_file(result);
    if (!status) status = index_tensors(result);
    if (!status) status = find_quantization(result);
    if (!status) status = w4_find_modules(result);
    if (status)
        w4a16_checkpoint_close(result);
    else
        *checkpoint = result;
    return status;
}

void w4a16_checkpoint_close(w4a16_checkpoint *checkpoint) {
    if (!checkpoint) return;
    for (size_t i = 0; i < checkpoint->file_count; i++) {
        w4a16_tensor_file_close(checkpoint->files[i]);
        free(checkpoint->file_names[i]);
    }
    for (size_t i = 0; i < checkpoint->module_count; i++) free(checkpoint->modules[i].name);
    free(checkpoint->files);
    free(checkpoint->file_names);
    free(checkpoint->tensors);
    free(checkpoint->modules);
    free(checkpoint->path);
    free(checkpoint);
}
