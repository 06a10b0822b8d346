/* SPDX-License-Identifier: Apache-2.0
 * Devices and contexts. */
#include "api/objects.h"
#include "core/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** The backend and its own index of device `index` of the machine; NULL past the last. */
static const w4_backend *locate(int index, int *local) {
    for (size_t i = 0; w4_backends[i]; i++) {
        int count = w4_backends[i]->device_count();
        if (index < count) {
            *local = index;
            return w4_backends[i];
        }
        index -= count;
    }
    return NULL;
}

/** Describe device `index`, or return false. */
static int describe(int index, w4a16_device_info *information) {
    int local;
    const w4_backend *backend = locate(index, &local);
    if (!backend) return 0;
    memset(information, 0, sizeof *information);
    information->struct_size = sizeof *information;
    backend->device_query(local, information);
    return 1;
}

/** The machine's device that "auto" picks: the first usable one, as backends stand in order of speed. */
static int automatic_index(void) {
    w4a16_device_info information;
    for (int index = 0; describe(index, &information); index++)
        if (information.usable) return index;
    return -1;
}

w4a16_status w4a16_device_query(int index, w4a16_device_info *info) {
    if (!info) return w4_fail_null("info");
    W4_TRY(w4_check_struct("info", NULL, info->struct_size, sizeof *info));
    w4a16_device_info information;
    if (index < 0 || !describe(index, &information))
        return w4_fail(W4A16_ERROR_NOT_FOUND, "index is %d; this machine has no such device", index);
    information.automatic = index == automatic_index();
    *info = information;
    return W4A16_OK;
}

void w4a16_context_options_init(w4a16_context_options *options) {
    if (options) *options = (w4a16_context_options){.struct_size = sizeof *options};
}

static w4a16_status find_device(const char *id, int *index) {
    if (!id || strcmp(id, "auto") == 0) {
        *index = automatic_index();
        w4a16_device_info passed;
        for (int i = 0; i < *index && describe(i, &passed); i++)
            w4_log(W4A16_LOG_INFO, "auto passes over %s: %s", passed.id, passed.reason);
        return *index >= 0 ? W4A16_OK : w4_fail(W4A16_ERROR_NOT_FOUND, "this machine has no usable device");
    }
    char known[512] = "";
    size_t used = 0;
    w4a16_device_info information;
    for (int i = 0; describe(i, &information); i++) {
        if (strcmp(information.id, id) == 0) {
            *index = i;
            return W4A16_OK;
        }
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
    int index, local;
    /* A wish for a CPU instruction set is a wish for the CPU. */
    int wants_cpu = options->cpu_instruction_set && (!options->device || strcmp(options->device, "auto") == 0);
    W4_TRY(find_device(wants_cpu ? "cpu" : options->device, &index));
    w4a16_device_info information = {.struct_size = sizeof information};
    W4_TRY(w4a16_device_query(index, &information));
    if (!information.usable)
        return w4_fail(W4A16_ERROR_UNSUPPORTED, "device '%s' cannot be used: %s", information.id, information.reason);
    void *memory;
    W4_TRY(w4_allocate(sizeof(w4a16_context), "a context", &memory));
    w4a16_context *result = memory;
    atomic_init(&result->references, 1);
    result->information = information;
    result->backend = locate(index, &local);
    w4a16_status status = result->backend->device_open(local, options, &result->device);
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
    return W4A16_OK;
}
