/* SPDX-License-Identifier: Apache-2.0
 * Device memory, streams and graphs for the tests of the CUDA backend, straight from the driver: the public API leaves
 * them to the caller. Every function fails the test where the driver reports an error. */
#ifndef W4A16_TESTS_DEVICE_MEMORY_H
#define W4A16_TESTS_DEVICE_MEMORY_H

#include <stddef.h>

/** Load the driver and make device 0's primary context current; the usual way of a program around the library. */
void device_begin(void);
void device_end(void);
/** Make that device's primary context current instead; what is below then means that device. Begins with device 0. */
void device_use(int device);

void *device_allocate(size_t bytes);
/** Allocate and fill; `offset` bytes into the allocation, which ends where the data does. */
void *device_copy_in(const void *host, size_t bytes, size_t offset);
void device_copy_out(void *host, const void *device, size_t bytes);
/** Takes what device_copy_in gave with the same offset. */
void device_free(void *memory, size_t offset);
void device_fill(void *memory, int value, size_t bytes);

/** Host memory that the device copies to at full speed. */
void *device_host_allocate(size_t bytes);
void device_host_free(void *memory);

/** In the order of `stream` and not waited for: from device to device, and a fill. */
void device_queue_copy(void *target, const void *source, size_t bytes, void *stream);
void device_queue_fill(void *memory, int value, size_t bytes, void *stream);

void *device_stream_create(void);
void device_stream_destroy(void *stream);
void device_synchronize(void *stream);

/** Between these, work on `stream` is recorded. */
void device_capture_begin(void *stream);
void *device_capture_end(void *stream);
void device_graph_launch(void *graph, void *stream);
void device_graph_destroy(void *graph);

/** From now on `what` runs: where the next call of this does not come in time, say so and end the program, for a kernel
 * that hangs would let it wait forever. NULL: nothing that can hang runs. */
void device_watch(const char *what);

#endif
