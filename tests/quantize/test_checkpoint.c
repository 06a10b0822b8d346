/* SPDX-License-Identifier: Apache-2.0
 * w4a16_checkpoint_quantize: which modules, what comes out, and that an interrupted call leaves no half output. */
#include "quantize/group_oracle.h"
#include "w4a16.h"

#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

extern char **environ;

static char folder[] = "/tmp/w4a16-quantize-XXXXXX";
static char program[4096];

static const char *path_of(const char *name) {
    static char paths[16][512];
    static int next;
    char *path = paths[next++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static bool exists(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0;
}

static void remove_path(const char *path) {
    char line[600];
    snprintf(line, sizeof line, "rm -rf '%s'", path);
    assert_int_equal(system(line), 0);
}

/* A small decoder: two projections in two layers, an odd one that AWQ cannot hold, and what stays as it is. */
enum { ROWS = 48, COLUMNS = 128, TENSORS = 8 };

static void write_model(const char *path, int rows_factor) {
    static const struct {
        const char *name;
        w4a16_dtype dtype;
        int64_t rows, columns;
    } shapes[TENSORS] = {
        {"model.embed_tokens.weight", W4A16_FP32, 64, COLUMNS},
        {"model.layers.0.up_proj.weight", W4A16_FP32, ROWS, COLUMNS},
        {"model.layers.0.down_proj.weight", W4A16_BF16, ROWS, COLUMNS},
        {"model.layers.1.up_proj.weight", W4A16_FP16, ROWS, COLUMNS},
        {"model.layers.1.odd.weight", W4A16_FP32, 9, COLUMNS},
        {"model.norm.weight", W4A16_FP32, 0, COLUMNS},
        {"model.layers.0.up_proj.bias", W4A16_FP32, 0, ROWS},
        {"lm_head.weight", W4A16_FP32, 64, COLUMNS},
    };
    w4a16_tensor tensors[TENSORS];
    void *data[TENSORS];
    uint64_t random = 8;
    memset(tensors, 0, sizeof tensors);
    for (int i = 0; i < TENSORS; i++) {
        w4a16_tensor *tensor = &tensors[i];
        int64_t rows = shapes[i].rows * (i && i < 4 ? rows_factor : 1);
        size_t count = (size_t)((rows ? rows : 1) * shapes[i].columns);
        float *values = malloc(count * sizeof *values);
        assert_non_null(values);
        for (size_t j = 0; j < count; j++) values[j] = (float)(0.02 * oracle_normal(&random));
        tensor->name = shapes[i].name;
        tensor->dtype = shapes[i].dtype;
        tensor->dimensions = rows ? 2 : 1;
        tensor->shape[0] = rows ? rows : shapes[i].columns;
        tensor->shape[1] = rows ? shapes[i].columns : 0;
        tensor->bytes = count * w4a16_dtype_size(tensor->dtype);
        data[i] = malloc(tensor->bytes);
        assert_non_null(data[i]);
        assert_int_equal(w4a16_convert_elements(values, W4A16_FP32, data[i], tensor->dtype, count), 0);
        tensor->data = data[i];
        free(values);
    }
    assert_int_equal(w4a16_tensor_file_write(path, tensors, TENSORS, 1), W4A16_OK);
    for (int i = 0; i < TENSORS; i++) free(data[i]);
}

static w4a16_quantize_options default_options(void) {
    w4a16_quantize_options options;
    w4a16_quantize_options_init(&options);
    options.group_size = 64;
    return options;
}

/* The names of the quantised modules, with a comma after each. */
static const char *module_names(const char *path) {
    static char names[1024];
    w4a16_checkpoint *checkpoint;
    names[0] = 0;
    if (w4a16_checkpoint_open(path, &checkpoint)) return w4a16_last_error();
    for (size_t i = 0; i < w4a16_checkpoint_count(checkpoint); i++) {
        w4a16_module_info module = {.struct_size = sizeof module};
        assert_int_equal(w4a16_checkpoint_module(checkpoint, i, &module), 0);
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s,", module.name);
    }
    w4a16_checkpoint_close(checkpoint);
    return names;
}

typedef struct totals {
    double signal, noise;
    int quantized, reports, stop_at;
    uint64_t done, total;
} totals;

static int add_up(const w4a16_progress *progress, void *user) {
    totals *sums = user;
    assert_true(progress->done_bytes >= sums->done && progress->done_bytes <= progress->total_bytes);
    sums->done = progress->done_bytes;
    sums->total = progress->total_bytes;
    if (progress->n) {
        sums->quantized++;
        sums->signal += progress->signal;
        sums->noise += progress->noise;
        assert_true(fabs(progress->sqnr_db - 10 * log10(progress->signal / progress->noise)) < 1e-9);
    }
    return ++sums->reports == sums->stop_at;
}

/* Every module decodes to within the noise that was reported; every other tensor is the same bytes. */
static void test_output(void **unused) {
    (void)unused;
    const char *input = path_of("model.safetensors");
    write_model(input, 1);
    for (int variant = 0; variant < 4; variant++) {
        w4a16_quantize_options options = default_options();
        totals sums = {0};
        options.asymmetric = variant & 1;
        options.method = variant & 2 ? W4A16_QUANTIZE_MSE : W4A16_QUANTIZE_RTN;
        options.progress = add_up;
        options.user = &sums;
        const char *output = path_of("out.safetensors");
        remove_path(output);
        if (w4a16_checkpoint_quantize(input, output, &options)) fail_msg("%s", w4a16_last_error());
        w4a16_tensor_file *before, *after;
        w4a16_checkpoint *checkpoint;
        assert_int_equal(w4a16_tensor_file_open(input, &before), 0);
        assert_int_equal(w4a16_tensor_file_open(output, &after), 0);
        assert_int_equal(w4a16_checkpoint_open(output, &checkpoint), 0);
        double signal = 0, noise = 0;
        int quantized = 0;
        for (size_t i = 0; i < w4a16_tensor_file_count(before); i++) {
            w4a16_tensor tensor, same;
            size_t index;
            assert_int_equal(w4a16_tensor_file_get(before, i, &tensor), 0);
            if (w4a16_checkpoint_find(checkpoint, tensor.name, &index)) {
                assert_int_equal(w4a16_tensor_file_find(after, tensor.name, &same), 0);
                assert_int_equal(same.bytes, tensor.bytes);
                assert_memory_equal(same.data, tensor.data, tensor.bytes);
                continue;
            }
            size_t count = (size_t)(tensor.shape[0] * tensor.shape[1]);
            float *original = malloc(count * sizeof *original);
            double *decoded = malloc(count * sizeof *decoded);
            assert_true(original && decoded);
            assert_int_equal(w4a16_convert_elements(tensor.data, tensor.dtype, original, W4A16_FP32, count), 0);
            assert_int_equal(w4a16_checkpoint_dequantize(checkpoint, tensor.name, W4A16_FP64, decoded, tensor.shape[1]),
                             0);
            for (size_t j = 0; j < count; j++) {
                signal += (double)original[j] * original[j];
                noise += (original[j] - decoded[j]) * (original[j] - decoded[j]);
            }
            quantized++;
            free(original);
            free(decoded);
        }
        assert_int_equal(quantized, 4);
        assert_int_equal(sums.quantized, 4);
        assert_true(fabs(sums.signal - signal) < 1e-9 * signal && fabs(sums.noise - noise) < 1e-9 * noise);
        assert_int_equal(sums.done, sums.total);
        w4a16_tensor_file_close(before);
        w4a16_tensor_file_close(after);
        w4a16_checkpoint_close(checkpoint);
    }
}

/* Quantise with these patterns; NULL means none. @return the status; on success the names in *names */
static w4a16_status select_with(const char *include, const char *second, const char *exclude, const char **names) {
    w4a16_quantize_options options = default_options();
    const char *includes[2] = {include, second};
    options.include = includes;
    options.include_count = (include != NULL) + (second != NULL);
    options.exclude = &exclude;
    options.exclude_count = exclude != NULL;
    const char *output = path_of("selected.safetensors");
    remove_path(output);
    w4a16_status status = w4a16_checkpoint_quantize(path_of("model.safetensors"), output, &options);
    if (status)
        assert_false(exists(output));
    else
        *names = module_names(output);
    return status;
}

static void test_patterns(void **unused) {
    (void)unused;
    const char *names;
    write_model(path_of("model.safetensors"), 1);
    assert_int_equal(select_with(NULL, NULL, NULL, &names), 0);
    assert_string_equal(names,
                        "model.layers.0.down_proj,model.layers.0.up_proj,model.layers.1.odd,model.layers.1.up_proj,");
    assert_int_equal(select_with("*.up_proj", NULL, NULL, &names), 0);
    assert_string_equal(names, "model.layers.0.up_proj,model.layers.1.up_proj,");
    assert_int_equal(select_with("*.odd", "*.down_proj", NULL, &names), 0);
    assert_string_equal(names, "model.layers.0.down_proj,model.layers.1.odd,");
    assert_int_equal(select_with(NULL, NULL, "*.layers.1.*", &names), 0); /* besides the usual exclusions */
    assert_string_equal(names, "model.layers.0.down_proj,model.layers.0.up_proj,");
    assert_int_equal(select_with("lm_head", NULL, NULL, &names), 0); /* named, so no usual exclusion holds */
    assert_string_equal(names, "lm_head,");
    assert_int_equal(select_with("*", NULL, "*.layers.*", &names), 0);
    assert_string_equal(names, "lm_head,model.embed_tokens,");

    assert_int_equal(select_with("*.up_proj", "*.gate_proj", NULL, &names), W4A16_ERROR_NOT_FOUND);
    assert_non_null(strstr(w4a16_last_error(), "'*.gate_proj' matches no module"));
    assert_int_equal(select_with("lm_head", NULL, "*head*", &names), W4A16_ERROR_NOT_FOUND);
    assert_non_null(strstr(w4a16_last_error(), "'lm_head' matches only modules that '*head*' excludes"));
    assert_int_equal(select_with(NULL, NULL, "*", &names), W4A16_ERROR_NOT_FOUND);
    assert_non_null(strstr(w4a16_last_error(), "no linear layer to quantise"));
}

static char logged[1024];
static void keep_log(w4a16_log_level level, const char *message, void *user) {
    (void)user;
    if (level == W4A16_LOG_WARNING) snprintf(logged, sizeof logged, "%s", message);
}

/* AWQ packs 8 rows into a word: 9 rows stay as they are with a warning, unless they were asked for. */
static void test_shape_that_the_format_cannot_hold(void **unused) {
    (void)unused;
    const char *output = path_of("awq.safetensors");
    write_model(path_of("model.safetensors"), 1);
    remove_path(output);
    w4a16_quantize_options options = default_options();
    options.format = W4A16_FORMAT_AWQ;
    assert_int_equal(w4a16_quantize(NULL, NULL, W4A16_FP32, 1, 1, 1, NULL, NULL, NULL, NULL, NULL),
                     W4A16_ERROR_INVALID_ARGUMENT);
    char before[256];
    snprintf(before, sizeof before, "%s", w4a16_last_error());
    w4a16_set_log_callback(keep_log, NULL);
    w4a16_status status = w4a16_checkpoint_quantize(path_of("model.safetensors"), output, &options);
    w4a16_set_log_callback(NULL, NULL);
    if (status) fail_msg("%s", w4a16_last_error());
    assert_string_equal(w4a16_last_error(), before); /* a call that succeeds leaves it alone */
    assert_non_null(strstr(logged, "model.layers.1.odd"));
    assert_string_equal(module_names(output),
                        "model.layers.0.down_proj,model.layers.0.up_proj,model.layers.1.up_proj,");
    const char *include = "*.odd";
    options.include = &include;
    options.include_count = 1;
    options.overwrite = 1;
    assert_int_equal(w4a16_checkpoint_quantize(path_of("model.safetensors"), output, &options),
                     W4A16_ERROR_UNSUPPORTED);
    assert_non_null(strstr(w4a16_last_error(), "model.layers.1.odd"));
    assert_string_equal(module_names(output), /* the output that was there */
                        "model.layers.0.down_proj,model.layers.0.up_proj,model.layers.1.up_proj,");
}

static size_t entries_in(const char *path) {
    DIR *directory = opendir(path);
    assert_non_null(directory);
    size_t count = 0;
    while (readdir(directory)) count++;
    closedir(directory);
    return count;
}

static void test_cancel_leaves_nothing(void **unused) {
    (void)unused;
    const char *output = path_of("cancelled.safetensors");
    write_model(path_of("model.safetensors"), 1);
    w4a16_quantize_options options = default_options();
    totals sums = {0};
    options.progress = add_up;
    options.user = &sums;
    assert_int_equal(w4a16_checkpoint_quantize(path_of("model.safetensors"), output, &options), 0);
    int reports = sums.reports;
    remove_path(output);
    size_t entries = entries_in(folder);
    assert_true(reports >= 4);
    for (int stop = 1; stop <= reports; stop++) {
        sums = (totals){.stop_at = stop};
        assert_int_equal(w4a16_checkpoint_quantize(path_of("model.safetensors"), output, &options),
                         W4A16_ERROR_CANCELLED);
        assert_int_equal(sums.reports, stop);
        assert_int_equal(entries_in(folder), entries); /* no output and no temporary */
    }
}

static void test_bad_weights_and_arguments(void **unused) {
    (void)unused;
    const char *output = path_of("bad-out.safetensors"), *input = path_of("bad.safetensors");
    static float values[64 * 64];
    values[3 * 64 + 5] = NAN;
    w4a16_tensor tensor = {.name = "a.weight",
                           .dtype = W4A16_FP32,
                           .dimensions = 2,
                           .shape = {64, 64},
                           .data = values,
                           .bytes = sizeof values};
    assert_int_equal(w4a16_tensor_file_write(input, &tensor, 1, 1), 0);
    w4a16_quantize_options options = default_options();
    size_t entries = entries_in(folder);
    assert_int_equal(w4a16_checkpoint_quantize(input, output, &options), W4A16_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(w4a16_last_error(), "a.weight"));
    assert_non_null(strstr(w4a16_last_error(), "w[3, 5] is nan"));
    assert_int_equal(entries_in(folder), entries);

    const w4a16_status invalid = W4A16_ERROR_INVALID_ARGUMENT;
    assert_int_equal(w4a16_checkpoint_quantize(NULL, output, &options), invalid);
    assert_non_null(strstr(w4a16_last_error(), "input is NULL"));
    assert_int_equal(w4a16_checkpoint_quantize(input, NULL, &options), invalid);
    assert_non_null(strstr(w4a16_last_error(), "output is NULL"));
    options.format = W4A16_FORMAT_NONE;
    assert_int_equal(w4a16_checkpoint_quantize(input, output, &options), invalid);
    assert_non_null(strstr(w4a16_last_error(), "options.format is 0"));
    options = default_options();
    options.include_count = 1;
    assert_int_equal(w4a16_checkpoint_quantize(input, output, &options), invalid);
    assert_non_null(strstr(w4a16_last_error(), "options.include is NULL"));
    const char *none = NULL;
    options.include_count = 0;
    options.exclude = &none;
    options.exclude_count = 1;
    assert_int_equal(w4a16_checkpoint_quantize(input, output, &options), invalid);
    assert_non_null(strstr(w4a16_last_error(), "options.exclude[0] is NULL"));
    assert_int_equal(w4a16_checkpoint_quantize(path_of("missing.safetensors"), output, NULL), W4A16_ERROR_NOT_FOUND);
    assert_int_equal(entries_in(folder), entries);
}

/* What the killed process runs. */
static int quantize_once(const char *input, const char *output) {
    w4a16_quantize_options options = default_options();
    return w4a16_checkpoint_quantize(input, output, &options) ? 1 : 0;
}

/* Killed at any moment, the output is not there or whole. */
static void test_kill_leaves_no_half_output(void **unused) {
    (void)unused;
    const char *input = path_of("large.safetensors");
    write_model(input, 40);
    char output[512];
    snprintf(output, sizeof output, "%s", path_of("killed.safetensors"));
    char *arguments[] = {program, "--quantize", (char *)input, output, NULL};
    int killed = 0, whole = 0;
    uint64_t random = 9;
    /* Until both outcomes were seen: first delays that are surely too short, then longer and longer ones. */
    for (int round = 0; round < 400 && (round < 60 || !whole); round++) {
        pid_t process;
        int status;
        assert_int_equal(posix_spawn(&process, program, NULL, NULL, arguments, environ), 0);
        usleep((useconds_t)oracle_below(&random, 2000 + 1000 * (uint64_t)round));
        kill(process, SIGKILL);
        assert_int_equal(waitpid(process, &status, 0), process);
        if (WIFSIGNALED(status)) killed++;
        if (exists(output)) {
            whole++;
            assert_string_equal(
                module_names(output),
                "model.layers.0.down_proj,model.layers.0.up_proj,model.layers.1.odd,model.layers.1.up_proj,");
            w4a16_tensor_file *file;
            w4a16_tensor head;
            assert_int_equal(w4a16_tensor_file_open(output, &file), 0);
            assert_int_equal(w4a16_tensor_file_find(file, "lm_head.weight", &head), 0);
            w4a16_tensor_file_close(file);
            assert_int_equal(unlink(output), 0);
        }
    }
    assert_true(killed > 0 && whole > 0);
}

static int make_folder(void **unused) {
    (void)unused;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **unused) {
    (void)unused;
    remove_path(folder);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "--quantize")) return quantize_once(argv[2], argv[3]);
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_output),
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_shape_that_the_format_cannot_hold),
        cmocka_unit_test(test_cancel_leaves_nothing),
        cmocka_unit_test(test_bad_weights_and_arguments),
        cmocka_unit_test(test_kill_leaves_no_half_output),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
