/* SPDX-License-Identifier: Apache-2.0
 * What `quantize` and `convert` share. */
#include "rewrite.h"

#include "progress.h"
#include "report.h"
#include "table.h"

#include <math.h>
#include <stdlib.h>

void rewrite_begin(rewrite *self) {
    *self = (rewrite){.started = seconds_now()};
    catch_interruption();
    progress_begin();
}

int rewrite_progress(const w4a16_progress *progress, void *user) {
    rewrite *self = user;
    progress_show((double)progress->done_bytes, (double)progress->total_bytes, progress->tensor);
    if (progress->n == 0) {
        self->copied++;
        return interruption();
    }
    if (self->count == self->capacity) {
        self->capacity = self->capacity ? self->capacity * 2 : 64;
        self->layers = reallocate(self->layers, self->capacity, sizeof *self->layers);
    }
    self->layers[self->count++] = (rewritten_layer){
        .name = format_text("%s", progress->tensor),
        .n = progress->n,
        .k = progress->k,
        .sqnr_db = progress->sqnr_db,
        .signal = progress->signal,
        .noise = progress->noise,
    };
    return interruption();
}

static double total_sqnr(const rewrite *self) {
    double signal = 0, noise = 0;
    for (size_t i = 0; i < self->count; i++) {
        signal += self->layers[i].signal;
        noise += self->layers[i].noise;
    }
    return 10 * log10(signal / noise);
}

static int print_json(const rewrite *self, const char *input, const char *output, w4a16_format format, bool quantized,
                      double seconds) {
    json_t *root = json_object(), *layers = json_array();
    json_put_text(root, "input", input);
    json_put_text(root, "output", output);
    json_put_text(root, "format", w4a16_format_name(format));
    json_put(root, "layers", layers);
    for (size_t i = 0; i < self->count; i++) {
        const rewritten_layer *layer = &self->layers[i];
        json_t *object = json_object();
        json_put_text(object, "name", layer->name);
        json_put(object, "n", json_integer(layer->n));
        json_put(object, "k", json_integer(layer->k));
        if (quantized) json_put(object, "sqnr_db", json_number(layer->signal > 0 ? layer->sqnr_db : NAN));
        json_array_append_new(layers, object);
    }
    if (quantized) json_put(root, "sqnr_db", json_number(total_sqnr(self)));
    json_put(root, "copied_tensors", json_integer((json_int_t)self->copied));
    json_put(root, "input_bytes", json_integer((json_int_t)path_bytes(input)));
    json_put(root, "output_bytes", json_integer((json_int_t)path_bytes(output)));
    json_put(root, "seconds", json_number(seconds));
    return json_print(root);
}

static void print_table(const rewrite *self, const char *input, const char *output, w4a16_format format, bool quantized,
                        double seconds) {
    table *rows = table_create(quantized ? "<LAYER|N|K|SQNR dB" : "<LAYER|N|K");
    for (size_t i = 0; i < self->count; i++) {
        const rewritten_layer *layer = &self->layers[i];
        table_add(rows, "%s", layer->name);
        table_add(rows, "%lld", (long long)layer->n);
        table_add(rows, "%lld", (long long)layer->k);
        if (quantized && layer->signal > 0) {
            table_add(rows, "%.2f", layer->sqnr_db);
        } else if (quantized) {
            table_add(rows, "-"); /* all weights are 0 */
        }
    }
    table_print(rows, stdout);
    table_destroy(rows);
    printf("%s%zu layers %s to %s, %zu tensors copied, in %s\n", self->count ? "\n" : "", self->count,
           quantized ? "quantised" : "converted", w4a16_format_name(format), self->copied, seconds_text(seconds));
    if (quantized && self->count) printf("SQNR over all of them %.2f dB\n", total_sqnr(self));
    double input_bytes = (double)path_bytes(input), output_bytes = (double)path_bytes(output);
    printf("%s (%s) -> ", input, bytes_text(input_bytes));
    printf("%s (%s, %.1f %%)\n", output, bytes_text(output_bytes), 100 * output_bytes / input_bytes);
}

int rewrite_finish(rewrite *self, w4a16_status status, const char *input, const char *output, w4a16_format format,
                   bool quantized, bool json) {
    double seconds = seconds_now() - self->started;
    int exit_code = 0;
    progress_clear();
    if (status) {
        exit_code = fail_library();
        if (status == W4A16_ERROR_CANCELLED) raise_interruption();
    } else if (json) {
        exit_code = print_json(self, input, output, format, quantized, seconds);
    } else {
        print_table(self, input, output, format, quantized, seconds);
    }
    for (size_t i = 0; i < self->count; i++) free(self->layers[i].name);
    free(self->layers);
    *self = (rewrite){0};
    return exit_code;
}
