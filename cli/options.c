/* SPDX-License-Identifier: Apache-2.0
 * The option parser of every subcommand, on getopt_long. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

const choice activation_dtypes[] = {{"fp16", W4A16_FP16}, {"bf16", W4A16_BF16}, {NULL, 0}};
const choice scale_dtypes[] = {{"fp16", W4A16_FP16}, {"bf16", W4A16_BF16}, {"fp32", W4A16_FP32}, {NULL, 0}};
const choice formats[] = {{"compressed-tensors", W4A16_FORMAT_COMPRESSED_TENSORS},
                          {"gptq", W4A16_FORMAT_GPTQ},
                          {"awq", W4A16_FORMAT_AWQ},
                          {NULL, 0}};
const choice instruction_sets[] = {{"reference", 1}, {"avx2", 2}, {"avx512", 3}, {NULL, 0}};

enum { MAX_OPTIONS = 24, LONG_VALUE = 256 };

const problem_arguments default_problem = {.group_size = 128, .dtype = W4A16_FP16, .scale_dtype = W4A16_FP16};

w4a16_problem make_problem(const problem_arguments *arguments, int64_t m) {
    w4a16_problem problem;
    w4a16_problem_init(&problem);
    problem.m = m;
    problem.n = arguments->n;
    problem.k = arguments->k;
    problem.group_size = arguments->group_size;
    problem.a_dtype = problem.c_dtype = (w4a16_dtype)arguments->dtype;
    problem.scale_dtype = (w4a16_dtype)arguments->scale_dtype;
    problem.zero_kind = arguments->asymmetric ? W4A16_ZERO_INTEGER : W4A16_ZERO_SYMMETRIC;
    return problem;
}

const char *instruction_set_text(int value) {
    return value ? instruction_sets[value - 1].text : NULL;
}

void free_texts(text_list *list) {
    free(list->items);
    *list = (text_list){0};
}

void free_integers(integer_list *list) {
    free(list->items);
    *list = (integer_list){0};
}

/* "--group-size" or "-m": how error lines call an option. */
static const char *option_text(const option_spec *option) {
    static char text[40];
    if (option->name) {
        snprintf(text, sizeof text, "--%s", option->name);
    } else {
        snprintf(text, sizeof text, "-%c", option->letter);
    }
    return text;
}

/* A whole number, nothing before or after it. */
static bool read_integer(const char *text, size_t length, int64_t *value) {
    char digits[24], *end;
    if (!length || length >= sizeof digits || !strchr("+-0123456789", *text)) return false;
    memcpy(digits, text, length);
    digits[length] = 0;
    errno = 0;
    long long number = strtoll(digits, &end, 10);
    if (errno || end == digits || *end) return false;
    *value = number;
    return true;
}

static bool store_integer(const option_spec *option, const char *text, size_t length, int64_t *value) {
    if (!read_integer(text, length, value)) {
        fail_usage("%s: '%.*s' is not a whole number; give one from %lld to %lld", option_text(option), (int)length,
                   text, (long long)option->minimum, (long long)option->maximum);
        return false;
    }
    if (*value < option->minimum || *value > option->maximum) {
        fail_usage("%s: %.*s is out of range; give a whole number from %lld to %lld", option_text(option), (int)length,
                   text, (long long)option->minimum, (long long)option->maximum);
        return false;
    }
    return true;
}

static bool store_integers(const option_spec *option, const char *text) {
    integer_list *list = option->target;
    free_integers(list); /* the last one given holds */
    for (;;) {
        size_t length = strcspn(text, ",");
        int64_t value;
        if (!store_integer(option, text, length, &value)) return false;
        list->items = reallocate(list->items, list->count + 1, sizeof *list->items);
        list->items[list->count++] = value;
        if (!text[length]) return true;
        text += length + 1;
    }
}

/* "1,16,33", or "1-8192". */
static bool store_tokens(const option_spec *option, const char *text) {
    token_counts *tokens = option->target;
    const char *dash = strchr(text, '-');
    option_spec list = *option;
    list.target = &tokens->list;
    tokens->first = tokens->last = 0;
    if (!dash || dash == text) return store_integers(&list, text);
    free_integers(&tokens->list);
    if (!store_integer(option, text, (size_t)(dash - text), &tokens->first) ||
        !store_integer(option, dash + 1, strlen(dash + 1), &tokens->last))
        return false;
    if (tokens->first <= tokens->last) return true;
    fail_usage("%s: the range '%s' ends before it begins; give FIRST-LAST", option_text(option), text);
    return false;
}

static bool store_group_size(const option_spec *option, const char *text) {
    int64_t value;
    if (!read_integer(text, strlen(text), &value)) {
        fail_usage("%s: '%s' is not a whole number; give a multiple of 32 or -1", option_text(option), text);
        return false;
    }
    if (value != -1 && (value <= 0 || value % 32)) {
        fail_usage("%s: %s is not allowed; give a multiple of 32 or -1", option_text(option), text);
        return false;
    }
    *(int64_t *)option->target = value;
    return true;
}

static bool store_seconds(const option_spec *option, const char *text) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (errno || end == text || *end || !(value >= (double)option->minimum && value <= (double)option->maximum)) {
        fail_usage("%s: '%s' will not do; give a number of seconds from %lld to %lld", option_text(option), text,
                   (long long)option->minimum, (long long)option->maximum);
        return false;
    }
    *(double *)option->target = value;
    return true;
}

static bool store_choice(const option_spec *option, const char *text) {
    char all[120] = "";
    for (const choice *c = option->choices; c->text; c++) {
        if (!strcmp(c->text, text)) {
            *(int *)option->target = c->value;
            return true;
        }
        size_t length = strlen(all);
        snprintf(all + length, sizeof all - length, "%s%s", !length ? "" : c[1].text ? ", " : " or ", c->text);
    }
    fail_usage("%s: '%s' is unknown; give %s", option_text(option), text, all);
    return false;
}

static bool store(const option_spec *option, const char *text) {
    switch (option->kind) {
    case OPTION_FLAG:
        *(bool *)option->target = true;
        return true;
    case OPTION_TEXT:
        *(const char **)option->target = text;
        return true;
    case OPTION_TEXTS: {
        text_list *list = option->target;
        list->items = reallocate(list->items, list->count + 1, sizeof *list->items);
        list->items[list->count++] = text;
        return true;
    }
    case OPTION_INTEGER:
        return store_integer(option, text, strlen(text), option->target);
    case OPTION_INTEGERS:
        return store_integers(option, text);
    case OPTION_TOKENS:
        return store_tokens(option, text);
    case OPTION_GROUP_SIZE:
        return store_group_size(option, text);
    case OPTION_SECONDS:
        return store_seconds(option, text);
    case OPTION_CHOICE:
        return store_choice(option, text);
    }
    return false;
}

/* ---- --help ---- */

static void print_option(const char *left, const char *help) {
    enum { COLUMN = 26 };
    int width = printf("  %s", left);
    if (width > COLUMN - 2) {
        putchar('\n');
        width = 0;
    }
    for (;;) {
        size_t length = strcspn(help, "\n");
        printf("%*s%.*s\n", COLUMN - width, "", (int)length, help);
        if (!help[length]) return;
        help += length + 1;
        width = 0;
    }
}

static void print_help(const command_help *help, const option_spec *options) {
    printf("Usage: w4a16 %s %s\n\n%s\n\nOptions:\n", command_name(), help->forms, help->description);
    for (const option_spec *option = options; option->name || option->letter; option++) {
        char left[64], letter[8] = "";
        if (option->letter) snprintf(letter, sizeof letter, "-%c%s", option->letter, option->name ? ", " : "");
        snprintf(left, sizeof left, "%s%s%s%s%s", letter, option->name ? "--" : "", option->name ? option->name : "",
                 option->argument ? " " : "", option->argument ? option->argument : "");
        print_option(left, option->help);
    }
    print_option("-h, --help", "print this text");
    printf("\nExamples:\n%s\n\nExit codes:\n  0  success\n  1  %s\n  2  wrong usage\n", help->examples,
           help->exit_note);
}

/* ---- Parsing ---- */

static int unknown_option(char **argv) {
    if (optopt >= LONG_VALUE) return fail_usage("%s: this option takes no value", argv[optind - 1]);
    if (optopt) return fail_usage("unknown option -%c", optopt);
    return fail_usage("unknown or ambiguous option %s", argv[optind - 1]);
}

static const option_spec *find_option(const option_spec *options, int value) {
    if (value >= LONG_VALUE) return &options[value - LONG_VALUE];
    while (options->letter != value) options++;
    return options;
}

/* Everything but the options that getopt_long has taken. @return the exit code, or -1 to go on */
static int check_rest(const command_help *help, const option_spec *options, const bool *given, int argc, char **argv,
                      const char **operand) {
    for (int i = 0; options[i].name || options[i].letter; i++) {
        if (!options[i].required || given[i]) continue;
        if (options[i].name && options[i].letter)
            return fail_usage("-%c %s is missing (--%s)", options[i].letter, options[i].argument, options[i].name);
        return fail_usage("%s %s is missing", option_text(&options[i]), options[i].argument);
    }
    if (operand) {
        bool is_model = strncmp(help->forms, "PATH", 4) == 0;
        if (optind >= argc)
            return fail_usage("%.*s is missing%s", (int)strcspn(help->forms, " "), help->forms,
                              is_model ? ": give a .safetensors file or a model folder" : "");
        *operand = argv[optind++];
    }
    if (optind < argc) return fail_usage("unexpected argument '%s'", argv[optind]);
    return -1;
}

bool parse_options(const command_help *help, const option_spec *options, int argc, char **argv, const char **operand,
                   int *exit_code) {
    struct option names[MAX_OPTIONS + 2] = {{0}};
    char letters[2 * MAX_OPTIONS + 4] = ":h";
    bool given[MAX_OPTIONS] = {false};
    int long_count = 0;
    for (int i = 0; options[i].name || options[i].letter; i++) {
        const option_spec *option = &options[i];
        size_t length = strlen(letters);
        if (option->letter)
            snprintf(letters + length, sizeof letters - length, "%c%s", option->letter, option->argument ? ":" : "");
        if (option->name)
            names[long_count++] =
                (struct option){option->name, option->argument ? required_argument : no_argument, NULL, LONG_VALUE + i};
    }
    names[long_count] = (struct option){"help", no_argument, NULL, 'h'};
    opterr = 0;
    *exit_code = EXIT_USAGE;
    for (int value; (value = getopt_long(argc, argv, letters, names, NULL)) != -1;) {
        if (value == 'h') {
            print_help(help, options);
            *exit_code = 0;
            return false;
        }
        if (value == '?') {
            *exit_code = unknown_option(argv);
            return false;
        }
        const option_spec *option = find_option(options, value == ':' ? optopt : value);
        if (value == ':') {
            *exit_code = fail_usage("%s: its value %s is missing", option_text(option), option->argument);
            return false;
        }
        if (!store(option, optarg)) return false;
        given[option - options] = true;
    }
    int result = check_rest(help, options, given, argc, argv, operand);
    if (result < 0) return true;
    *exit_code = result;
    return false;
}
