/* SPDX-License-Identifier: Apache-2.0
 * The command `w4a16`: finds the subcommand, runs it, and makes sure that its output arrived. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

typedef struct subcommand {
    const char *name;
    const char *summary;
    command_function function;
} subcommand;

static const subcommand subcommands[] = {
    {"info", "this machine: processor, GPUs, the device that auto picks", command_info},
    {"inspect", "list the quantised layers of a checkpoint", command_inspect},
    {"dequantize", "decode layers to plain fp32, fp16 or bf16 weights", command_dequantize},
    {"quantize", "quantise a model to 4 bits", command_quantize},
    {"convert", "rewrite a quantised checkpoint in another format", command_convert},
    {"gemm", "multiply activations by one layer", command_gemm},
    {"verify", "check every layer of a checkpoint through the kernels", command_verify},
    {"bench", "time a multiplication with cold weights", command_bench},
    {"tune", "find the fastest config of each layer by measuring, and keep it", command_tune},
    {"cache", "show, merge and export files of tuned results", command_cache},
    {"configs", "list the kernel configs and what they can run", command_configs},
};
enum { SUBCOMMAND_COUNT = sizeof subcommands / sizeof *subcommands };

static void print_help(FILE *stream) {
    fputs("Usage: w4a16 SUBCOMMAND [arguments]\n\n"
          "Multiply 16-bit activations by 4-bit weights, and handle the checkpoints that hold such weights.\n"
          "PATH is a .safetensors file or a model folder (one file, or shards with an index).\n\n"
          "Subcommands:\n",
          stream);
    for (int i = 0; i < SUBCOMMAND_COUNT; i++)
        fprintf(stream, "  %-11s %s\n", subcommands[i].name, subcommands[i].summary);
    fputs("\nMore:\n"
          "  w4a16 help SUBCOMMAND   options, examples (also: w4a16 SUBCOMMAND --help)\n"
          "  w4a16 --version         the version\n\n"
          "Example:\n"
          "  w4a16 quantize model/ -o model-4bit/ && w4a16 verify model-4bit/\n\n"
          "Exit codes: 0 success; 1 a file, tensor or device failed, or a verification did; 2 wrong usage.\n",
          stream);
}

static const subcommand *find_subcommand(const char *name) {
    for (int i = 0; i < SUBCOMMAND_COUNT; i++) {
        if (!strcmp(subcommands[i].name, name)) return &subcommands[i];
    }
    return NULL;
}

static int unknown_subcommand(const char *name) {
    fprintf(stderr, "w4a16: unknown subcommand '%s'; see w4a16 --help\n", name);
    return EXIT_USAGE;
}

static int run(int argc, char **argv) {
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    const char *word = argv[1];
    if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
        print_help(stdout);
        return 0;
    }
    if (!strcmp(word, "--version") || !strcmp(word, "-V")) {
        printf("w4a16 %s\n", w4a16_version());
        return 0;
    }
    if (!strcmp(word, "help")) {
        if (argc == 2) {
            print_help(stdout);
            return 0;
        }
        if (argc > 3) {
            fprintf(stderr, "w4a16: help takes one subcommand; see w4a16 --help\n");
            return EXIT_USAGE;
        }
        const subcommand *asked = find_subcommand(argv[2]);
        if (!asked) return unknown_subcommand(argv[2]);
        char option[] = "--help";
        char *arguments[] = {argv[2], option, NULL};
        set_command_name(asked->name);
        return asked->function(2, arguments);
    }
    if (*word == '-') {
        fprintf(stderr, "w4a16: unknown option %s; see w4a16 --help\n", word);
        return EXIT_USAGE;
    }
    const subcommand *asked = find_subcommand(word);
    if (!asked) return unknown_subcommand(word);
    set_command_name(asked->name);
    return asked->function(argc - 1, argv + 1);
}

/* A standard stream that the caller closed would give its number to the next file opened, and a table printed to
 * stdout would land in that file. Hold the place with a descriptor on which the stream's own use fails. */
static void hold_standard_descriptors(void) {
    for (int descriptor = 0; descriptor <= 2; descriptor++) {
        if (fcntl(descriptor, F_GETFD) >= 0 || errno != EBADF) continue;
        if (open("/dev/null", descriptor == 0 ? O_WRONLY : O_RDONLY) != descriptor) _exit(EXIT_RUNTIME);
    }
}

/* Output that never arrived is a failure, also where it was only a table. */
static int finish_output(int exit_code) {
    errno = 0;
    int failed = fflush(stdout) || ferror(stdout);
    int reason = errno;
    if (!failed) return exit_code;
    if (reason == EPIPE) { /* `w4a16 ... | head`: leave as other commands do, now that every file is in place */
        signal(SIGPIPE, SIG_DFL);
        raise(SIGPIPE);
    }
    fail("cannot write to standard output: %s", reason ? strerror(reason) : "an earlier write failed");
    return exit_code ? exit_code : EXIT_RUNTIME;
}

/* What the library has to tell, such as a mislabelled checkpoint. May come from any thread, one call at a time. */
static void print_log(w4a16_log_level level, const char *message, void *user) {
    (void)user;
    if (level >= W4A16_LOG_WARNING) warn("%s", message);
}

int main(int argc, char **argv) {
    w4a16_set_log_callback(print_log, NULL);
    hold_standard_descriptors();
    /* A reader that left must not kill the program between writing a file aside and renaming it. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file-size limit is an error that a write returns, as a full disk is */
    return finish_output(run(argc, argv));
}
