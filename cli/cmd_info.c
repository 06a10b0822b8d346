/* SPDX-License-Identifier: Apache-2.0
 * `w4a16 info`: this machine as the library sees it. */
#include "options.h"
#include "report.h"
#include "table.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

static const command_help help = {
    "[--json]",
    "Describe this machine: the library's version, the processor and the instructions that its\n"
    "kernels use, the GPUs and whether they can be used, and the device that `auto` picks and why.",
    "  w4a16 info\n"
    "  w4a16 info --json",
    "a device could not be queried",
};

/* Whether this build embeds GPU kernels is known when it is built. */
#ifndef W4A16_CLI_GPU_KERNELS
#define W4A16_CLI_GPU_KERNELS 0
#endif

static json_t *device_json(const w4a16_device_info *device) {
    json_t *object = json_object();
    json_put_text(object, "id", device->id);
    json_put_text(object, "name", device->name);
    json_put_text(object, "architecture", device->architecture);
    json_put(object, "usable", json_boolean(device->usable));
    json_put(object, "automatic", json_boolean(device->automatic));
    json_put_text(object, "reason", device->reason);
    return object;
}

static void print_device(const w4a16_device_info *device) {
    printf("%-10s %s\n", device->id, device->name);
    printf("  %-8s %s\n", "arch", device->architecture);
    /* The last line gives the reason of the one that auto picks. */
    if (device->usable && device->automatic) {
        printf("  %-8s yes\n", "usable");
    } else {
        printf("  %-8s %s: %s\n", "usable", device->usable ? "yes" : "no", device->reason);
    }
}

/* What the device that auto picks knows of tuned results, where W4A16_CACHE names a file: the question then is whether
 * it is used. @return false after an error line */
static bool find_tuning(w4a16_tuning_info *tuning) {
    const char *path = getenv("W4A16_CACHE");
    w4a16_device_info device;
    *tuning = (w4a16_tuning_info){.struct_size = sizeof *tuning};
    if (!path || !*path) return true;
    w4a16_context *context = open_context(NULL, 0, NULL, &device);
    if (!context) return false;
    bool good = !w4a16_context_tuning(context, tuning);
    if (!good) fail_library();
    w4a16_context_destroy(context);
    return good;
}

int command_info(int argc, char **argv) {
    bool json = false;
    int exit_code;
    const option_spec options[] = {OPTION_ENTRY_JSON(&json), {0}};
    if (!parse_options(&help, options, argc, argv, NULL, &exit_code)) return exit_code;

    w4a16_device_info device = {.struct_size = sizeof device}, automatic = {0};
    int gpus = 0;
    json_t *root = json_object(), *list = json_array();
    if (!json)
        printf("w4a16 %s, %d CPU threads, GPU kernels: %s\n\n", w4a16_version(), omp_get_max_threads(),
               W4A16_CLI_GPU_KERNELS ? "inside" : "none in this build");
    w4a16_status status;
    for (int i = 0; !(status = w4a16_device_query(i, &device)); i++) {
        gpus += strcmp(device.id, "cpu") != 0;
        if (device.automatic) automatic = device;
        if (json) {
            json_array_append_new(list, device_json(&device));
        } else {
            print_device(&device);
        }
    }
    if (status != W4A16_ERROR_NOT_FOUND) {
        json_decref(list);
        json_decref(root);
        return fail_library();
    }
    w4a16_tuning_info tuning;
    if (!find_tuning(&tuning)) {
        json_decref(list);
        json_decref(root);
        return EXIT_RUNTIME;
    }
    if (!json) {
        json_decref(list);
        json_decref(root);
        if (!gpus)
            printf("%-10s %s\n", "GPUs",
                   W4A16_CLI_GPU_KERNELS ? "none found" : "not looked for: this build holds no GPU kernels");
        printf("\nauto picks %s: %s\n", automatic.id, automatic.reason);
        if (tuning.cache[0]) {
            printf("tuned results: %zu, ", tuning.cache_points);
            print_clean(tuning.cache, stdout);
            putchar('\n');
        }
        return 0;
    }
    json_put_text(root, "version", w4a16_version());
    json_put(root, "threads", json_integer(omp_get_max_threads()));
    json_put(root, "gpu_kernels", json_boolean(W4A16_CLI_GPU_KERNELS));
    json_put(root, "devices", list);
    json_put_text(root, "automatic", automatic.id);
    json_put(root, "tuned_results", json_integer((json_int_t)tuning.cache_points));
    json_put_text(root, "cache", tuning.cache);
    json_put_text(root, "automatic_reason", automatic.reason);
    return json_print(root);
}
