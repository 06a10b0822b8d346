/* SPDX-License-Identifier: Apache-2.0
 * Writing a checkpoint anew with some of its modules quantised: tensor by tensor, so that memory is bounded by the
 * largest one, and aside, so that the output is whole or not there. */
#include "format/rewrite.h"

#include "core/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char INDEX_FILE[] = "model.safetensors.index.json";

/** Who writes a tensor of the input, if it is not simply copied. */
typedef struct owner {
    const w4a16_tensor *tensor;
    const w4_choice *choice;
} owner;

/** One tensor of an output file. */
typedef struct item {
    w4a16_tensor tensor;
    const w4a16_tensor *source; /* what it is made from, or copied from */
    const w4_choice *choice;    /* NULL: copied; otherwise tensor.name is owned */
    w4_part part;
    size_t position; /* in the file */
} item;

typedef struct item_list {
    item *items; /* in the order in which they are made */
    size_t count, capacity;
} item_list;

typedef struct rewriter {
    w4_rewrite_plan plan;
    owner *owners; /* sorted by tensor */
    size_t owner_count;
    json_t *config;
    json_t *weight_map; /* of the new index */
    uint64_t written_bytes;
} rewriter;

/* ---- Laying out a file ---------------------------------------------------------------------------------------- */

static int compare_owners(const void *left, const void *right) {
    uintptr_t a = (uintptr_t)((const owner *)left)->tensor, b = (uintptr_t)((const owner *)right)->tensor;
    return a < b ? -1 : a > b;
}

static w4a16_status find_owners(rewriter *work) {
    void *memory;
    W4_TRY(w4_allocate(work->plan.choice_count * W4_PARTS * sizeof *work->owners, "the plan", &memory));
    work->owners = memory;
    for (size_t i = 0; i < work->plan.choice_count; i++) {
        const w4_choice *choice = &work->plan.choices[i];
        if (!work->plan.request->convert) {
            work->owners[work->owner_count++] = (owner){choice->source, choice};
            continue;
        }
        const w4_tensor_ref *parts = work->plan.input->modules[choice->index].parts;
        for (int part = 0; part < W4_PARTS; part++)
            if (parts[part].tensor) work->owners[work->owner_count++] = (owner){parts[part].tensor, choice};
    }
    qsort(work->owners, work->owner_count, sizeof *work->owners, compare_owners);
    return W4A16_OK;
}

static const w4_choice *find_choice(const rewriter *work, const w4a16_tensor *tensor) {
    owner key = {tensor, NULL};
    const owner *found = bsearch(&key, work->owners, work->owner_count, sizeof key, compare_owners);
    return found ? found->choice : NULL;
}

static w4a16_status add_item(item_list *list, item entry) {
    if (list->count == list->capacity) {
        size_t larger = list->capacity ? list->capacity * 2 : 64;
        void *items = realloc(list->items, larger * sizeof *list->items);
        if (!items) return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the plan of a file");
        list->items = items;
        list->capacity = larger;
    }
    list->items[list->count++] = entry;
    return W4A16_OK;
}

static void free_items(item_list *list) {
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].choice) free((char *)(uintptr_t)list->items[i].tensor.name);
    free(list->items);
}

static w4a16_status add_parts(const rewriter *work, const w4_choice *choice, item_list *list) {
    w4_part_plan parts[W4_PARTS];
    int count = work->plan.layout->plan(&choice->shape, &work->plan.scheme, parts);
    for (int i = 0; i < count; i++) {
        size_t size = strlen(choice->name) + strlen(parts[i].suffix) + 1;
        void *name;
        W4_TRY(w4_allocate(size, "a tensor's name", &name));
        snprintf(name, size, "%s%s", choice->name, parts[i].suffix);
        item entry = {.source = choice->source, .choice = choice, .part = parts[i].part};
        entry.tensor = (w4a16_tensor){.name = name, .dtype = parts[i].dtype, .dimensions = parts[i].dimensions};
        entry.tensor.bytes = w4a16_dtype_size(parts[i].dtype);
        for (int j = 0; j < parts[i].dimensions; j++) {
            entry.tensor.shape[j] = parts[i].shape[j];
            entry.tensor.bytes *= (uint64_t)parts[i].shape[j];
        }
        w4a16_status status = add_item(list, entry);
        if (status) {
            free(name);
            return status;
        }
    }
    return W4A16_OK;
}

/** What the output file in place of `file` holds, in the order in which it will be made. */
static w4a16_status list_items(const rewriter *work, const w4a16_tensor_file *file, item_list *list) {
    for (size_t i = 0; i < file->count; i++) {
        const w4a16_tensor *tensor = &file->tensors[i];
        const w4_choice *choice = find_choice(work, tensor);
        if (!choice)
            W4_TRY(add_item(list, (item){.tensor = *tensor, .source = tensor}));
        else if (choice->source == tensor)
            W4_TRY(add_parts(work, choice, list));
    }
    return W4A16_OK;
}

/** Order the tensors of a file so that each is aligned to its element size: the format permits no gaps, and readers
 * that view the data in place need it. Within one size the order stays. Returns the tensors in that order (new). */
static w4a16_status order_items(item_list *list, w4a16_tensor **tensors) {
    void *memory;
    W4_TRY(w4_allocate(list->count * sizeof **tensors, "the plan of a file", &memory));
    *tensors = memory;
    size_t position = 0;
    for (size_t size = 8; size > 0; size /= 2)
        for (size_t i = 0; i < list->count; i++)
            if (w4a16_dtype_size(list->items[i].tensor.dtype) == size) {
                list->items[i].position = position;
                (*tensors)[position++] = list->items[i].tensor;
            }
    return W4A16_OK;
}

/* ---- Making tensors ------------------------------------------------------------------------------------------- */

/** Let go of mapped pages that were read: else the whole input would count as this process's memory in the end. */
static void release_pages(const w4a16_tensor *tensor) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)tensor->data / page * page;
    if (tensor->bytes) (void)madvise((void *)start, (uintptr_t)tensor->data + tensor->bytes - start, MADV_DONTNEED);
}

static double decibels(double signal, double noise) {
    if (signal <= 0) return 0; /* copied, converted, or all zeros */
    return noise > 0 ? 10 * log10(signal / noise) : INFINITY;
}

static w4a16_status report(rewriter *work, const char *name, uint64_t bytes, const w4_matrix *matrix, double signal,
                           double noise) {
    const w4_rewrite *request = work->plan.request;
    work->plan.done_bytes += bytes;
    if (!request->progress) return W4A16_OK;
    w4a16_progress progress = {.tensor = name,
                               .signal = signal,
                               .noise = noise,
                               .sqnr_db = decibels(signal, noise),
                               .done_bytes = work->plan.done_bytes,
                               .total_bytes = work->plan.total_bytes};
    if (matrix) {
        progress.n = matrix->n;
        progress.k = matrix->k;
    }
    if (request->progress(&progress, request->user) == 0) return W4A16_OK;
    return w4_fail(W4A16_ERROR_CANCELLED, "%s: cancelled after '%s'", request->output, name);
}

/** Is `matrix` what `select` promised? The header of the file says so already. */
static bool keeps_promise(const w4_matrix *matrix, const w4_choice *choice) {
    const w4_matrix *shape = &choice->shape;
    bool zeros = matrix->zero_kind == shape->zero_kind ||
                 (matrix->zero_kind == W4A16_ZERO_SYMMETRIC && shape->zero_kind == W4A16_ZERO_INTEGER);
    return matrix->n == shape->n && matrix->k == shape->k && matrix->group_size == shape->group_size &&
           matrix->scale_dtype == shape->scale_dtype && zeros && (matrix->k_order != NULL) == choice->has_k_order;
}

static w4a16_status write_parts(const rewriter *work, const item *items, size_t count, const w4_matrix *matrix,
                                w4_tensor_writer *writer) {
    void *unsorted = NULL, *data;
    w4a16_status status = W4A16_OK;
    if (matrix->k_order) {
        status = w4_allocate((uint64_t)matrix->n * (uint64_t)w4_matrix_row_bytes(matrix), "codes", &unsorted);
        if (!status) status = w4_permute_columns(matrix->codes, unsorted, matrix->n, matrix->k, matrix->k_order, true);
    }
    for (size_t i = 0; i < count && !status; i++) {
        status = w4_allocate(items[i].tensor.bytes, items[i].tensor.name, &data);
        if (status) break;
        status = work->plan.layout->fill(matrix, unsorted ? unsorted : matrix->codes, items[i].part, data);
        if (!status) status = w4_tensor_writer_append(writer, items[i].position, data, items[i].tensor.bytes);
        free(data);
    }
    free(unsorted);
    return status;
}

/** Make one module and write its `count` items. */
static w4a16_status write_module(rewriter *work, const item *items, size_t count, w4_tensor_writer *writer) {
    const w4_rewrite *request = work->plan.request;
    const w4_choice *choice = items->choice;
    const w4a16_tensor *source = request->convert ? NULL : choice->source;
    w4_matrix matrix;
    double signal = 0, noise = 0;
    W4_TRY(request->make(request->state, choice->name, source, choice->index, &matrix, &signal, &noise));
    w4a16_status status = W4A16_OK;
    if (!keeps_promise(&matrix, choice))
        status = w4_fail(W4A16_ERROR_INTERNAL, "module '%s' was made in another shape than announced", choice->name);
    if (!status) {
        status = write_parts(work, items, count, &matrix, writer);
        if (status) w4_fail_context(status, "module '%s': ", choice->name);
    }
    uint64_t bytes = choice->source->bytes;
    if (request->convert) {
        const w4_module *module = &work->plan.input->modules[choice->index];
        for (int part = 0; part < W4_PARTS; part++)
            if (module->parts[part].tensor) release_pages(module->parts[part].tensor);
        bytes = module->bytes;
    } else {
        release_pages(source);
    }
    if (!status) status = report(work, choice->name, bytes, &matrix, signal, noise);
    w4_matrix_free(&matrix);
    return status;
}

static w4a16_status copy_tensor(rewriter *work, const item *entry, w4_tensor_writer *writer) {
    W4_TRY(w4_tensor_writer_append(writer, entry->position, entry->source->data, entry->source->bytes));
    release_pages(entry->source);
    return report(work, entry->source->name, entry->source->bytes, NULL, 0, 0);
}

/* ---- Files ---------------------------------------------------------------------------------------------------- */

/** The metadata of an output: the input's own, "format" for readers that insist on it, and for a file that stands
 * alone its quantization_config. */
static w4a16_status open_writer(const rewriter *work, const w4a16_tensor_file *input, const char *path,
                                const w4a16_tensor *tensors, size_t count, w4_tensor_writer *writer) {
    size_t pairs = 0;
    const char **keys = calloc(input->metadata_count + 2, sizeof *keys);
    const char **values = calloc(input->metadata_count + 2, sizeof *values);
    char *text = work->plan.input->is_folder ? NULL : json_dumps(work->config, JSON_COMPACT);
    w4a16_status status = W4A16_OK;
    if (!keys || !values || (!text && !work->plan.input->is_folder)) {
        status = w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the metadata of %s", path);
    } else {
        for (size_t i = 0; i < input->metadata_count; i++) {
            if (strcmp(input->metadata_keys[i], "quantization_config") == 0) continue;
            keys[pairs] = input->metadata_keys[i];
            values[pairs++] = input->metadata_values[i];
        }
        if (!w4_tensor_file_metadata(input, "format")) {
            keys[pairs] = "format";
            values[pairs++] = "pt";
        }
        if (text) {
            keys[pairs] = "quantization_config";
            values[pairs++] = text;
        }
        bool overwrite = !work->plan.input->is_folder && work->plan.request->overwrite;
        status = w4_tensor_writer_open(path, overwrite, tensors, count, keys, values, pairs, writer);
    }
    free(keys);
    free(values);
    free(text);
    return status;
}

static w4a16_status write_items(rewriter *work, const item_list *list, w4_tensor_writer *writer) {
    for (size_t i = 0, next; i < list->count; i = next) {
        const item *entry = &list->items[i];
        next = i + 1;
        if (!entry->choice) {
            W4_TRY(copy_tensor(work, entry, writer));
            continue;
        }
        while (next < list->count && list->items[next].choice == entry->choice) next++;
        W4_TRY(write_module(work, entry, next - i, writer));
    }
    return W4A16_OK;
}

static w4a16_status write_file(rewriter *work, size_t index, const char *path) {
    const w4a16_tensor_file *input = work->plan.input->files[index];
    item_list list = {NULL, 0, 0};
    w4a16_tensor *tensors = NULL;
    w4_tensor_writer writer;
    memset(&writer, 0, sizeof writer);
    w4a16_status status = list_items(work, input, &list);
    if (!status) status = order_items(&list, &tensors);
    if (!status) status = open_writer(work, input, path, tensors, list.count, &writer);
    if (!status) {
        status = write_items(work, &list, &writer);
        if (status)
            w4_tensor_writer_abandon(&writer);
        else
            status = w4_tensor_writer_commit(&writer);
    }
    for (size_t i = 0; i < list.count && !status; i++) {
        work->written_bytes += tensors[i].bytes;
        if (json_object_set_new(work->weight_map, tensors[i].name, json_string(work->plan.input->file_names[index])))
            status = w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the index of the shards");
    }
    free(tensors);
    free_items(&list);
    return status;
}

static w4a16_status write_index(const rewriter *work, const char *directory) {
    json_t *index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)work->written_bytes, "weight_map",
                              work->weight_map);
    if (!index) return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the index of the shards");
    char *path;
    w4a16_status status = w4_join_path(directory, INDEX_FILE, &path);
    if (!status) {
        status = w4_json_write(path, index);
        free(path);
    }
    json_decref(index);
    return status;
}

static w4a16_status fill_folder(rewriter *work, const char *staging) {
    const w4a16_checkpoint *input = work->plan.input;
    for (size_t i = 0; i < input->file_count; i++) {
        char *path;
        W4_TRY(w4_join_path(staging, input->file_names[i], &path));
        w4a16_status status = write_file(work, i, path);
        free(path);
        W4_TRY(status);
    }
    if (input->has_index) W4_TRY(write_index(work, staging));
    return w4_carry_folder(&work->plan, work->config, staging);
}

static w4a16_status write_folder(rewriter *work) {
    const w4_rewrite *request = work->plan.request;
    w4_output_directory output;
    W4_TRY(w4_output_directory_open(request->output, request->overwrite, &output));
    w4a16_status status = fill_folder(work, output.staging);
    if (!status) return w4_output_directory_commit(&output);
    w4_output_directory_abandon(&output);
    return status;
}

static w4a16_status check_input(const w4_rewrite *request, const w4a16_checkpoint *input) {
    if (request->convert && input->module_count == 0)
        return w4_fail(W4A16_ERROR_NOT_FOUND, "%s: holds no quantised module to convert", input->path);
    if (!request->convert && input->module_count > 0)
        return w4_fail(W4A16_ERROR_UNSUPPORTED,
                       "%s: quantised already (module '%s', %s); to change its format, convert it", input->path,
                       input->modules[0].name, w4a16_format_name(input->modules[0].format));
    return W4A16_OK;
}

static w4a16_status rewrite_opened(rewriter *work) {
    const w4_rewrite *request = work->plan.request;
    W4_TRY(check_input(request, work->plan.input));
    W4_TRY(w4_rewrite_choose(&work->plan));
    W4_TRY(find_owners(work));
    W4_TRY(w4_make_quantization_config(&work->plan, &work->config));
    work->weight_map = json_object();
    if (!work->weight_map) return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the index of the shards");
    return work->plan.input->is_folder ? write_folder(work) : write_file(work, 0, request->output);
}

w4a16_status w4_checkpoint_rewrite(const w4_rewrite *request) {
    rewriter work = {.plan = {.request = request, .layout = w4_layout_of(request->format)}};
    if (!work.plan.layout)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT, "format is %d; it must be awq, gptq or compressed-tensors",
                       (int)request->format);
    W4_TRY(w4_check_output(request->input, request->output));
    if (!request->overwrite && w4_path_exists(request->output))
        return w4_fail(W4A16_ERROR_EXISTS, "%s: exists already; remove it or ask to overwrite it", request->output);
    W4_TRY(w4a16_checkpoint_open(request->input, &work.plan.input));
    w4a16_status status = rewrite_opened(&work);
    json_decref(work.config);
    json_decref(work.weight_map);
    free(work.owners);
    w4_rewrite_plan_free(&work.plan);
    w4a16_checkpoint_close(work.plan.input);
    return status;
}
