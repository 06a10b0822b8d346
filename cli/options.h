/* SPDX-License-Identifier: Apache-2.0
 * The option parser of every subcommand: one table declares an option's name, its limits, where it is stored and its
 * line in --help. */
#ifndef W4A16_CLI_OPTIONS_H
#define W4A16_CLI_OPTIONS_H

#include "cli.h"

/** A word that stands for a number, such as {"fp16", W4A16_FP16}; lists end with {NULL, 0}. */
typedef struct choice {
    const char *text;
    int value;
} choice;

extern const choice activation_dtypes[]; /* fp16, bf16 */
extern const choice scale_dtypes[];      /* fp16, bf16, fp32 */
extern const choice formats[];           /* compressed-tensors, gptq, awq */
extern const choice instruction_sets[];  /* reference, avx2, avx512; stored as an index into this list + 1 */

/** Repeated values of one option, in the order given. */
typedef struct text_list {
    const char **items;
    size_t count;
} text_list;

typedef struct integer_list {
    int64_t *items;
    size_t count;
} integer_list;

/** Numbers of tokens: a list, or a range. */
typedef struct token_counts {
    integer_list list;
    int64_t first, last; /* of the range; 0 where there is none */
} token_counts;

typedef enum option_kind {
    OPTION_FLAG,       /* bool */
    OPTION_TEXT,       /* const char * */
    OPTION_TEXTS,      /* text_list; may be repeated */
    OPTION_INTEGER,    /* int64_t within minimum..maximum */
    OPTION_INTEGERS,   /* integer_list: comma-separated, each within minimum..maximum */
    OPTION_TOKENS,     /* token_counts: as OPTION_INTEGERS, or FIRST-LAST */
    OPTION_GROUP_SIZE, /* int64_t: a multiple of 32, or -1 */
    OPTION_SECONDS,    /* double within minimum..maximum */
    OPTION_CHOICE      /* int: the value of one of `choices` */
} option_kind;

typedef struct option_spec {
    const char *name; /* without dashes: "group-size"; NULL for an option that has only a letter */
    char letter;      /* 0 for none */
    option_kind kind;
    const char *argument; /* its name in --help: "G" */
    void *target;
    const char *help; /* one or more lines, with unit and default */
    int64_t minimum, maximum;
    const choice *choices;
    bool required;
} option_spec;

/** A multiplication, as the options of several subcommands state it. */
typedef struct problem_arguments {
    int64_t n, k, group_size;
    int dtype, scale_dtype;
    bool asymmetric;
} problem_arguments;

extern const problem_arguments default_problem; /* without N and K */
w4a16_problem make_problem(const problem_arguments *arguments, int64_t m);

/** The fixed text of a subcommand's --help. */
typedef struct command_help {
    const char *forms;       /* "PATH -o OUT [options]" */
    const char *description; /* what it does, wrapped by hand */
    const char *examples;    /* indented lines */
    const char *exit_note;   /* when it exits with 1 */
} command_help;

/** Parse argv against `options` (ends with an entry without kind, name and letter: {0}).
 * @param operand receives the one operand (PATH); NULL for a subcommand that takes none.
 * @return true: go on. false: leave with *exit_code (--help was printed, or an error line). */
bool parse_options(const command_help *help, const option_spec *options, int argc, char **argv, const char **operand,
                   int *exit_code);

void free_texts(text_list *list);
void free_integers(integer_list *list);

/* Entries that several subcommands have word for word. */
#define OPTION_ENTRY_COST_MODEL(target)                                                                                \
    {                                                                                                                  \
        "cost-model", 0, OPTION_FLAG, NULL, target,                                                                    \
            "choose by the cost model alone (default: tuned results\nof W4A16_CACHE first, then the table shipped "    \
            "for "                                                                                                     \
            "the GPU)",                                                                                                \
            0, 0, 0, 0                                                                                                 \
    }
#define OPTION_ENTRY_EXPLAIN(target)                                                                                   \
    {                                                                                                                  \
        "explain", 0, OPTION_FLAG, NULL, target,                                                                       \
            "say how the config is chosen: the source, every\ncandidate with its time, and why others cannot run", 0,  \
            0, 0, 0                                                                                                    \
    }
#define OPTION_ENTRY_JSON(target)                                                                                      \
    { "json", 0, OPTION_FLAG, NULL, target, "print JSON instead of a table", 0, 0, 0, 0 }
#define OPTION_ENTRY_FORCE(target)                                                                                     \
    { "force", 'f', OPTION_FLAG, NULL, target, "replace an existing output (default: refuse)", 0, 0, 0, 0 }
#define OPTION_ENTRY_THREADS(target)                                                                                   \
    {                                                                                                                  \
        "threads", 0, OPTION_INTEGER, "T", target,                                                                     \
            "the most CPU threads, 1 to 4096; 0: all that this process\nmay run on, OMP_NUM_THREADS counts (default "  \
            "0)",                                                                                                      \
            0, 4096, 0, 0                                                                                              \
    }
#define OPTION_ENTRY_DEVICE(target)                                                                                    \
    { "device", 'd', OPTION_TEXT, "D", target, "auto, cpu, or a device of `w4a16 info` (default auto)", 0, 0, 0, 0 }
#define OPTION_ENTRY_INSTRUCTIONS(target)                                                                              \
    {                                                                                                                  \
        "instruction-set", 0, OPTION_CHOICE, "I", target,                                                              \
            "CPU instructions, at most these: reference, avx2 or\navx512 (default: the best this processor has)", 0,   \
            0, instruction_sets, 0                                                                                     \
    }
#define OPTION_ENTRY_DTYPE(target)                                                                                     \
    {                                                                                                                  \
        "dtype", 0, OPTION_CHOICE, "T", target, "activations and output: fp16 or bf16 (default fp16)", 0, 0,           \
            activation_dtypes, 0                                                                                       \
    }

/** The text of an OPTION_ENTRY_INSTRUCTIONS value; NULL for 0 (not given). */
const char *instruction_set_text(int value);

#endif
