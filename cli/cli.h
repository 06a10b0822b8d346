/* SPDX-License-Identifier: Apache-2.0
 * What the subcommands of `w4a16` share: exit codes, error lines, files and interruption. */
#ifndef W4A16_CLI_H
#define W4A16_CLI_H

#include "w4a16.h"

#include <stdbool.h>
#include <stdio.h>

enum {
    EXIT_RUNTIME = 1, /* a file, a tensor, a device, or a verification that failed */
    EXIT_USAGE = 2    /* the command line makes no sense */
};

/** A subcommand. argv[0] is its name; the result is the exit code. */
typedef int (*command_function)(int argc, char **argv);

int command_info(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_dequantize(int argc, char **argv);
int command_quantize(int argc, char **argv);
int command_convert(int argc, char **argv);
int command_gemm(int argc, char **argv);
int command_verify(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_configs(int argc, char **argv);
int command_tune(int argc, char **argv);
int command_cache(int argc, char **argv);

/** The running subcommand, for error lines; set once by main. */
void set_command_name(const char *name);
const char *command_name(void);

/** Print "w4a16 SUBCOMMAND: text" on stderr. @return EXIT_RUNTIME */
int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/** The same with the text of w4a16_last_error(). */
int fail_library(void);
/** The same for a wrong command line, pointing at --help. @return EXIT_USAGE */
int fail_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));
/** Print "w4a16 SUBCOMMAND: warning: text" on stderr. */
void warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** malloc of count * size bytes that ends the program with an error line where there is no memory. For small things;
 * arrays of a tensor's size use allocate_array. */
void *allocate(size_t count, size_t size);
/** Grow an array; the same rules. */
void *reallocate(void *pointer, size_t count, size_t size);
/** rows * columns * size bytes, 64-byte aligned, to be freed with free(); NULL after an error line. */
void *allocate_array(int64_t rows, int64_t columns, size_t size);
/** A formatted string on the heap. */
char *format_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** Seconds on a clock that never goes backwards. */
double seconds_now(void);

/** Refuse an output path early, before the work: it is there already and `force` is off, or it is neither a file nor
 * a folder. @return true where it may be written, else an error line has been printed. */
bool output_allowed(const char *path, bool force);

/** Bytes of a file, or of all files in a folder. */
uint64_t path_bytes(const char *path);

/** An output file of text, written aside and renamed by text_output_commit, so that `path` never holds half of it. */
typedef struct text_output {
    FILE *stream;
    char *temporary;
    const char *path;
    bool force;
} text_output;
bool text_output_open(const char *path, bool force, text_output *output);
bool text_output_commit(text_output *output);
/** Remove what was written aside; does nothing after a commit or a failed open. */
void text_output_abandon(text_output *output);

/** Take SIGINT and SIGTERM as a wish to stop at the next tensor, leaving no output; a second one kills. */
void catch_interruption(void);
/** The signal that came, or 0. */
int interruption(void);
/** End the program by the signal that came, as the shell expects; returns where none came. */
void raise_interruption(void);

/** "1.23 GB", "456 kB" (decimal units); static storage for the last 4 calls. */
const char *bytes_text(double bytes);
/** "1.5 s", "12 ms", "3 min 20 s"; static storage for the last 4 calls. */
const char *seconds_text(double seconds);
/** "name", "cache", "table", "cost model". */
const char *source_text(w4a16_choice_source source);
/** "symmetric", "integer", "float". */
const char *zero_kind_text(w4a16_zero_kind kind);

/** How a plan for the problem's m chooses, to be freed; NULL after an error line. */
char *explanation_text(const w4a16_context *context, const w4a16_problem *problem);

/** Whether `context`'s device has a config of this name; false after an error line. */
bool config_known(const w4a16_context *context, const char *name);

/** Open the device of --device, --threads and --instruction-set (each may be NULL or 0); NULL after an error line. */
w4a16_context *open_context(const char *device, int64_t threads, const char *instruction_set,
                            w4a16_device_info *information);

#endif
