/* SPDX-License-Identifier: Apache-2.0
 * Error lines, memory, texts and the device options that the subcommands share. */
#include "cli.h"

#include "progress.h"
#include "table.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *current_command = NULL;

void set_command_name(const char *name) {
    current_command = name;
}

const char *command_name(void) {
    return current_command ? current_command : "";
}

static void print_line(const char *prefix, const char *text) {
    progress_clear();
    if (current_command) {
        fprintf(stderr, "w4a16 %s: %s", current_command, prefix);
    } else {
        fprintf(stderr, "w4a16: %s", prefix);
    }
    print_clean(text, stderr);
    fputc('\n', stderr);
}

static char *format_arguments(const char *format, va_list arguments) {
    char *text;
    if (vasprintf(&text, format, arguments) < 0) {
        fputs("w4a16: out of memory\n", stderr);
        exit(EXIT_RUNTIME);
    }
    return text;
}

char *format_text(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = format_arguments(format, arguments);
    va_end(arguments);
    return text;
}

int fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = format_arguments(format, arguments);
    va_end(arguments);
    print_line("", text);
    free(text);
    return EXIT_RUNTIME;
}

int fail_library(void) {
    print_line("", w4a16_last_error());
    return EXIT_RUNTIME;
}

int fail_usage(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = format_arguments(format, arguments);
    va_end(arguments);
    char *line = format_text("%s (see w4a16 %s --help)", text, command_name());
    print_line("", line);
    free(line);
    free(text);
    return EXIT_USAGE;
}

void warn(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = format_arguments(format, arguments);
    va_end(arguments);
    print_line("warning: ", text);
    free(text);
}

void *allocate(size_t count, size_t size) {
    void *pointer = calloc(count ? count : 1, size);
    if (!pointer) exit(fail("out of memory"));
    return pointer;
}

void *reallocate(void *pointer, size_t count, size_t size) {
    void *grown = reallocarray(pointer, count ? count : 1, size);
    if (!grown) exit(fail("out of memory"));
    return grown;
}

void *allocate_array(int64_t rows, int64_t columns, size_t size) {
    size_t bytes;
    void *array = NULL;
    if (!__builtin_mul_overflow(rows, columns, &bytes) && !__builtin_mul_overflow(bytes, size, &bytes) &&
        bytes <= SIZE_MAX - 64)
        array = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (!array)
        fail("out of memory: an array of %lld x %lld elements of %zu bytes", (long long)rows, (long long)columns, size);
    return array;
}

double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---- Interruption: a flag for the library's progress callback ---- */

static volatile sig_atomic_t caught_signal = 0;

static void remember_signal(int number) {
    caught_signal = number;
}

void catch_interruption(void) {
    /* SA_RESETHAND: the second signal of a kind kills. */
    struct sigaction action = {.sa_handler = remember_signal, .sa_flags = SA_RESTART | (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int interruption(void) {
    return caught_signal;
}

void raise_interruption(void) {
    if (!caught_signal) return;
    signal(caught_signal, SIG_DFL);
    raise(caught_signal);
}

/* ---- Texts ---- */

static char *next_text(void) {
    static char texts[4][48];
    static unsigned turn;
    return texts[turn++ % 4];
}

const char *bytes_text(double bytes) {
    char *text = next_text();
    if (bytes < 1e3) {
        snprintf(text, 48, "%.0f B", bytes);
    } else if (bytes < 1e6) {
        snprintf(text, 48, "%.3g kB", bytes * 1e-3);
    } else if (bytes < 1e9) {
        snprintf(text, 48, bytes < 1e8 ? "%.3g MB" : "%.0f MB", bytes * 1e-6);
    } else {
        snprintf(text, 48, "%.2f GB", bytes * 1e-9);
    }
    return text;
}

const char *seconds_text(double seconds) {
    char *text = next_text();
    if (seconds < 1) {
        snprintf(text, 48, "%.3g ms", seconds * 1e3);
    } else if (seconds < 99.5) {
        snprintf(text, 48, "%.1f s", seconds);
    } else {
        long long whole = (long long)(seconds + 0.5);
        snprintf(text, 48, "%lld min %lld s", whole / 60, whole % 60);
    }
    return text;
}

const char *source_text(w4a16_choice_source source) {
    static const char *const texts[] = {[W4A16_CHOICE_NAME] = "name",
                                        [W4A16_CHOICE_CACHE] = "cache",
                                        [W4A16_CHOICE_TABLE] = "table",
                                        [W4A16_CHOICE_COST_MODEL] = "cost model"};
    return texts[source];
}

const char *zero_kind_text(w4a16_zero_kind kind) {
    switch (kind) {
    case W4A16_ZERO_SYMMETRIC:
        return "symmetric";
    case W4A16_ZERO_INTEGER:
        return "integer";
    case W4A16_ZERO_FLOAT:
        return "float";
    }
    return "unknown";
}

w4a16_context *open_context(const char *device, int64_t threads, const char *instruction_set,
                            w4a16_device_info *information) {
    w4a16_context_options options;
    w4a16_context *context;
    w4a16_context_options_init(&options);
    options.device = device;
    options.threads = (int)threads;
    options.cpu_instruction_set = instruction_set;
    if (w4a16_context_create(&options, &context)) {
        fail_library();
        return NULL;
    }
    information->struct_size = sizeof *information;
    if (w4a16_context_device(context, information)) {
        fail_library();
        w4a16_context_destroy(context);
        return NULL;
    }
    return context;
}

bool config_known(const w4a16_context *context, const char *name) {
    size_t count = 0;
    bool known = false;
    w4a16_status status = w4a16_config_list(context, NULL, NULL, 0, &count);
    w4a16_config_info *configs = allocate(count, sizeof *configs);
    if (!status) status = w4a16_config_list(context, NULL, configs, count, &count);
    for (size_t i = 0; !status && i < count; i++) known = known || !strcmp(configs[i].name, name);
    free(configs);
    if (status) {
        fail_library();
    } else if (!known) {
        fail("--config: there is no config '%s' on this device; w4a16 configs lists them", name);
    }
    return !status && known;
}

char *explanation_text(const w4a16_context *context, const w4a16_problem *problem) {
    size_t length = 0;
    w4a16_status status = w4a16_problem_describe(context, problem, NULL, 0, &length);
    char *text = allocate(length + 1, 1);
    if (!status) status = w4a16_problem_describe(context, problem, text, length + 1, &length);
    if (!status) return text;
    fail_library();
    free(text);
    return NULL;
}
