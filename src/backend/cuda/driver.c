/* SPDX-License-Identifier: Apache-2.0
 * Loading libcuda.so.1, once for the process. */
#include "backend/cuda/driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool opened;
static w4_cuda_driver machine;
static char machine_reason[256];

/** Look up `symbol`; ISO C has no cast from an object pointer to a function pointer, so that the bytes are copied. */
static bool resolve(void *library, const char *symbol, void *function, char *reason, size_t reason_size) {
    void *address = dlsym(library, symbol);
    if (!address) {
        snprintf(reason, reason_size, "the NVIDIA driver has no function %s: install a newer one", symbol);
        return false;
    }
    memcpy(function, &address, sizeof address);
    return true;
}

static bool fill(void *library, w4_cuda_driver *driver, char *reason, size_t reason_size) {
    CUresult (*get_version)(int *version);
    if (!resolve(library, "cuDriverGetVersion", &get_version, reason, reason_size)) return false;
    /* Asked before all others: an old driver lacks some of them, and its age is the better explanation. */
    if (get_version(&driver->version) != CUDA_SUCCESS) driver->version = 0;
    if (driver->version < W4_CUDA_OLDEST_DRIVER) {
        snprintf(reason, reason_size, "the NVIDIA driver is one of CUDA %d.%d; %d.%d or newer is needed",
                 driver->version / 1000, driver->version % 1000 / 10, W4_CUDA_OLDEST_DRIVER / 1000,
                 W4_CUDA_OLDEST_DRIVER % 1000 / 10);
        return false;
    }
#define RESOLVE(name, symbol)                                                                                          \
    if (!resolve(library, symbol, &driver->name, reason, reason_size)) return false;
    W4_CUDA_FUNCTIONS(RESOLVE)
#undef RESOLVE
    CUresult result = driver->cuInit(0);
    if (result != CUDA_SUCCESS) {
        const char *text = NULL;
        driver->cuGetErrorString(result, &text);
        snprintf(reason, reason_size, "the NVIDIA driver cannot be used: cuInit: %s (error %d)",
                 text ? text : "unknown error", (int)result);
        return false;
    }
    return true;
}

bool w4_cuda_driver_open(const char *path, w4_cuda_driver *driver, char *reason, size_t reason_size) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *text = dlerror();
        snprintf(reason, reason_size, "no NVIDIA driver on this machine: %s", text ? text : path);
        return false;
    }
    if (fill(library, driver, reason, reason_size)) return true;
    dlclose(library);
    return false;
}

static void open_machine(void) {
    opened = w4_cuda_driver_open("libcuda.so.1", &machine, machine_reason, sizeof machine_reason);
}

const w4_cuda_driver *w4_cuda_driver_get(void) {
    pthread_once(&once, open_machine);
    return opened ? &machine : NULL;
}

const char *w4_cuda_driver_reason(void) {
    pthread_once(&once, open_machine);
    return machine_reason;
}

w4a16_status w4_cuda_check(CUresult result, const char *call) {
    if (result == CUDA_SUCCESS) return W4A16_OK;
    const char *text = NULL;
    machine.cuGetErrorString(result, &text);
    return w4_fail(result == CUDA_ERROR_OUT_OF_MEMORY ? W4A16_ERROR_OUT_OF_MEMORY : W4A16_ERROR_DEVICE,
                   "%s: %s (error %d)", call, text ? text : "unknown error", (int)result);
}
