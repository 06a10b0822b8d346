/* SPDX-License-Identifier: Apache-2.0
 * Devices and contexts. */
#include "api/objects.h"
#include "core/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** A device: a backend, and the backend's own index. */
typedef struct place {
    const w4_backend *backend;
    int index;
} place;

static void describe(place where, w4a16_device_info *information) {
    memset(information, 0, sizeof *information);
    information->struct_size = sizeof *information;
    where.backend->device_query(where.index, information);
}

/** Device `index` of the machine; false past the last. */
static bool locate(int index, place *where) {
    for (size_t i = 0; w4_backends[i]; i++) {
        int count = w4_backends[i]->device_count();
        if (index < count) {
            *where = (place){w4_backends[i], index};
            return true;
        }
        index -= count;
    }
    return false;
}

/** The device that "auto" picks: the machine's first usable one, as backends stand in order of speed. */
static bool locate_automatic(place *where) {
    w4a16_device_info information;
    for (int index = 0; locate(index, where); index++) {
        describe(*where, &information);
        if (information.usable) return true;
    }
    return false;
}

/** The device of this id. Only the backend that the id names is asked: opening a GPU's driver takes 10 ms, which a
 * context on the CPU need not wait for. */
static bool locate_id(const char *id, place *where) {
    w4a16_device_info information;
    for (size_t i = 0; w4_backends[i]; i++) {
        const w4_backend *backend = w4_backends[i];
        if (strncmp(id, backend->name, strlen(backend->name)) != 0) continue;
        for (int index = 0; index < backend->device_count(); index++) {
            *where = (place){backend, index};
            describe(*where, &information);
            if (strcmp(information.id, id) == 0) return true;
        }
    }
    return false;
}

static int is_automatic(place where) {
    place automatic;
    return locate_automatic(&automatic) && automatic.backend == where.backend && automatic.index == where.index;
}

w4a16_status w4a16_device_query(int index, w4a16_device_info *info) {
    if (!info) return w4_fail_null("info");
    W4_TRY(w4_check_struct("info", NULL, info->struct_size, sizeof *info));
    w4a16_device_info information;
    place where;
    if (index < 0 || !locate(index, &where))
        return w4_fail(W4A16_ERROR_NOT_FOUND, "index is %d; this machine has no such device", index);
    describe(where, &information);
    information.automatic = is_automatic(where);
    *info = information;
    return W4A16_OK;
}

void w4a16_context_options_init(w4a16_context_options *options) {
    if (options) *options = (w4a16_context_options){.struct_size = sizeof *options};
}

static w4a16_status find_device(const char *id, place *where) {
    w4a16_device_info information;
    place other;
    if (!id || strcmp(id, "auto") == 0) {
        if (!locate_automatic(where)) return w4_fail(W4A16_ERROR_NOT_FOUND, "this machine has no usable device");
        for (int i = 0; locate(i, &other) && (other.backend != where->backend || other.index != where->index); i++) {
            describe(other, &information);
            w4_log(W4A16_LOG_INFO, "auto passes over %s: %s", information.id, information.reason);
        }
        return W4A16_OK;
    }
    if (locate_id(id, where)) return W4A16_OK;
    char known[512] = "";
    size_t used = 0;
    for (int i = 0; locate(i, &other); i++) {
        describe(other, &information);
        int length = snprintf(known + used, sizeof known - used, ", %s", information.id);
        if (length > 0 && used + (size_t)length < sizeof known) used += (size_t)length;
    }
    int no_cuda = strncmp(id, "cuda", 4) == 0;
    for (size_t i = 0; w4_backends[i]; i++)
        if (strcmp(w4_backends[i]->name, "cuda") == 0) no_cuda = 0;
    const char *note = no_cuda ? "; this build of the library has no CUDA backend" : "";
    return w4_fail(W4A16_ERROR_NOT_FOUND, "options.device is '%s'; this machine has: auto%s%s", id, known, note);
}

w4a16_status w4a16_context_create(const w4a16_context_options *options, w4a16_context **context) {
    if (!context) return w4_fail_null("context");
    w4a16_context_options defaults;
    w4a16_context_options_init(&defaults);
    if (!options) options = &defaults;
    W4_TRY(w4_check_struct("options", "w4a16_context_options_init", options->struct_size, sizeof *options));
    if (options->threads < 0 || options->threads > 4096)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                       "options.threads is %d; it must be 0 (all that the process may run on) to 4096",
                       options->threads);
    place where = {NULL, 0};
    /* A wish for a CPU instruction set is a wish for the CPU. */
    int wants_cpu = options->cpu_instruction_set && (!options->device || strcmp(options->device, "auto") == 0);
    W4_TRY(find_device(wants_cpu ? "cpu" : options->device, &where));
    w4a16_device_info information;
    describe(where, &information);
    if (!information.usable)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "device '%s' cannot be used: %s", information.id, information.reason);
    void *memory;
    W4_TRY(w4_allocate(sizeof(w4a16_context), "a context", &memory));
    w4a16_context *result = memory;
    atomic_init(&result->references, 1);
    result->information = information;
    result->backend = where.backend;
    result->index = where.index;
    w4a16_status status = result->backend->device_open(where.index, options, &result->device);
    if (!status) {
        status = w4_profile_pool_create(result->backend, result->device, &result->pool);
        if (!status) status = w4_tuned_from_table(result->backend, result->device, &result->table);
        if (status) {
            w4_profile_pool_destroy(result->pool);
            result->backend->device_close(result->device);
        }
    }
    if (status) {
        free(result);
        return status;
    }
    result->backend->identify(result->device, &result->identity);
    w4_identity_clean(&result->identity);
    pthread_mutex_init(&result->cache_lock, NULL);
    w4_context_read_environment(result);
    *context = result;
    return W4A16_OK;
}

void w4a16_context_destroy(w4a16_context *context) {
    if (!context || atomic_fetch_sub(&context->references, 1) != 1) return;
    w4_tuned_release(context->cache);
    w4_tuned_release(context->table);
    pthread_mutex_destroy(&context->cache_lock);
    w4_profile_pool_destroy(context->pool);
    context->backend->device_close(context->device);
    free(context);
}

w4a16_status w4a16_context_device(const w4a16_context *context, w4a16_device_info *info) {
    if (!context) return w4_fail_null("context");
    if (!info) return w4_fail_null("info");
    W4_TRY(w4_check_struct("info", NULL, info->struct_size, sizeof *info));
    *info = context->information;
    info->automatic = is_automatic((place){context->backend, context->index});
    return W4A16_OK;
}
