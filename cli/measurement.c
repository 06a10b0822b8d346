/* SPDX-License-Identifier: Apache-2.0
 * A timed multiplication as table, JSON and CSV. */
#include "measurement.h"

#include "report.h"
#include "table.h"

#include <stdlib.h>

double problem_bytes(const w4a16_problem *problem) {
    double m = (double)problem->m, n = (double)problem->n, k = (double)problem->k;
    int64_t group = problem->group_size > 0 ? problem->group_size : problem->k;
    double groups = n * (double)((problem->k + group - 1) / group);
    double zeros = problem->zero_kind == W4A16_ZERO_INTEGER ? 1 : problem->zero_kind == W4A16_ZERO_FLOAT ? 4 : 0;
    return n * k / 2 + groups * ((double)w4a16_dtype_size(problem->scale_dtype) + zeros) +
           m * k * (double)w4a16_dtype_size(problem->a_dtype) + m * n * (double)w4a16_dtype_size(problem->c_dtype);
}

void rate(measurement *self, const w4a16_ceilings *ceilings) {
    const w4a16_problem *problem = &self->problem;
    double flop = 2 * (double)problem->m * (double)problem->n * (double)problem->k, bytes = problem_bytes(problem);
    double read_time = bytes / ceilings->read_bytes_per_second, flop_time = flop / ceilings->flop_per_second;
    self->flop_per_second = flop / self->result.seconds;
    self->bytes_per_second = bytes / self->result.seconds;
    self->by_memory = read_time > flop_time;
    self->share = (self->by_memory ? read_time : flop_time) / self->result.seconds;
}

static const char *limit_text(const measurement *row) {
    return row->by_memory ? "memory" : "arithmetic";
}

void print_bench_table(const bench_output *output) {
    const w4a16_problem *problem = &output->rows[0].problem;
    printf("N=%lld K=%lld group %lld %s %s on %s (%s)%s%s\n", (long long)problem->n, (long long)problem->k,
           (long long)problem->group_size, zero_kind_text(problem->zero_kind), w4a16_dtype_name(problem->a_dtype),
           output->device->id, output->device->name,
           problem->flags & W4A16_PLAN_BATCH_INVARIANT ? ", batch-invariant" : "",
           problem->flags & W4A16_PLAN_NO_OVERLAP ? ", no overlap of calls" : "");
    printf("measured ceilings: %.1f GB/s read, %.1f GFLOP/s\n\n", output->ceilings->read_bytes_per_second * 1e-9,
           output->ceilings->flop_per_second * 1e-9);
    bool fast = output->ceilings->flop_per_second > 1e13;
    char *headers = format_text("M|<CONFIG|TIME µs|%s|GB/s|OF LIMIT|<LIMIT|REL. ERROR|RUNS%s",
                                fast ? "TFLOP/s" : "GFLOP/s", output->profile ? "|RANK" : "");
    table *rows = table_create(headers);
    free(headers);
    size_t place = 0, hidden = 0;
    bool beyond = false; /* faster than a limit: then the limit was measured too low */
    for (size_t i = 0; i < output->count; i++) {
        const measurement *row = &output->rows[i];
        place = i && row->problem.m == output->rows[i - 1].problem.m ? place + 1 : 0;
        if (place >= output->shown_per_m && !row->chosen && !row->failure) {
            hidden++;
            continue;
        }
        table_add(rows, "%lld", (long long)row->problem.m);
        table_add(rows, "%s%s", row->result.config, output->profile && row->chosen ? " *" : "");
        if (row->failure) {
            for (int column = 0; column < 4; column++) table_add(rows, "-");
            table_add(rows, "FAIL: %s", row->failure);
            for (int column = 0; column < 2; column++) table_add(rows, "-");
            if (output->profile) table_add(rows, "%d", row->result.rank);
            continue;
        }
        table_add(rows, "%.1f", row->result.seconds * 1e6);
        table_add(rows, "%.1f", row->flop_per_second * (fast ? 1e-12 : 1e-9));
        table_add(rows, "%.2f", row->bytes_per_second * 1e-9);
        table_add(rows, "%.1f %%", row->share * 100);
        beyond = beyond || row->share > 1.1;
        table_add(rows, "%s", limit_text(row));
        table_add(rows, "%.2e", row->result.relative_error);
        table_add(rows, "%d", row->result.runs);
        if (output->profile) table_add(rows, "%d", row->result.rank);
    }
    table_print(rows, stdout);
    table_destroy(rows);
    if (hidden) printf("%zu slower configs are not shown; --json and --csv have them\n", hidden);
    if (beyond)
        puts("A result beyond the limits: other work slowed their measurement, or the data fits in a cache. Run it "
             "again "
             "on an idle machine, or with a larger matrix.");
    if (output->profile) puts("* the config that the library chooses; RANK: by the cost model's prediction");
}

int print_bench_json(const bench_output *output) {
    const w4a16_problem *problem = &output->rows[0].problem;
    json_t *root = json_object(), *rows = json_array(), *ceilings = json_object();
    json_put_text(root, "device", output->device->id);
    json_put_text(root, "device_name", output->device->name);
    json_put(root, "n", json_integer(problem->n));
    json_put(root, "k", json_integer(problem->k));
    json_put(root, "group_size", json_integer(problem->group_size));
    json_put_text(root, "dtype", w4a16_dtype_name(problem->a_dtype));
    json_put_text(root, "scale_dtype", w4a16_dtype_name(problem->scale_dtype));
    json_put_text(root, "zero_points", zero_kind_text(problem->zero_kind));
    json_put(root, "batch_invariant", json_boolean(problem->flags & W4A16_PLAN_BATCH_INVARIANT));
    json_put(root, "overlap", json_boolean(!(problem->flags & W4A16_PLAN_NO_OVERLAP)));
    json_put(ceilings, "read_bytes_per_second", json_number(output->ceilings->read_bytes_per_second));
    json_put(ceilings, "flop_per_second", json_number(output->ceilings->flop_per_second));
    json_put(root, "ceilings", ceilings);
    for (size_t i = 0; i < output->count; i++) {
        const measurement *row = &output->rows[i];
        json_t *object = json_object();
        json_put(object, "m", json_integer(row->problem.m));
        json_put_text(object, "config", row->result.config);
        if (!row->failure && row->result.threads) json_put(object, "threads", json_integer(row->result.threads));
        json_put(object, "chosen", json_boolean(row->chosen));
        json_put_text(object, "failure", row->failure ? row->failure : "");
        if (!row->failure) {
            json_put(object, "seconds", json_number(row->result.seconds));
            json_put(object, "flop_per_second", json_number(row->flop_per_second));
            json_put(object, "bytes_per_second", json_number(row->bytes_per_second));
            json_put(object, "share_of_ceiling", json_number(row->share));
            json_put_text(object, "limit", limit_text(row));
            json_put(object, "relative_error", json_number(row->result.relative_error));
            json_put(object, "runs", json_integer(row->result.runs));
            json_put(object, "predicted_seconds", json_number(row->result.predicted_seconds));
            json_put(object, "rank", json_integer(row->result.rank));
        }
        json_array_append_new(rows, object);
    }
    if (output->explanations) json_put(root, "explanations", json_incref(output->explanations));
    json_put(root, "results", rows);
    return json_print(root);
}

void write_bench_csv(const bench_output *output, FILE *stream) {
    fputs("device,m,n,k,group_size,zero_points,dtype,scale_dtype,config,chosen,microseconds,gflops,"
          "gigabytes_per_second,share_of_ceiling,limit,relative_error,runs,read_ceiling_gbs,flop_ceiling_gflops,"
          "predicted_microseconds,rank\n",
          stream);
    for (size_t i = 0; i < output->count; i++) {
        const measurement *row = &output->rows[i];
        const w4a16_problem *problem = &row->problem;
        if (row->failure) continue; /* never a time for a wrong result */
        fprintf(stream, "%s,%lld,%lld,%lld,%lld,%s,%s,%s,%s,%d,", output->device->id, (long long)problem->m,
                (long long)problem->n, (long long)problem->k, (long long)problem->group_size,
                zero_kind_text(problem->zero_kind), w4a16_dtype_name(problem->a_dtype),
                w4a16_dtype_name(problem->scale_dtype), row->result.config, row->chosen);
        fprintf(stream, "%.6g,%.6g,%.6g,%.6g,%s,%.6g,%d,%.6g,%.6g,%.6g,%d\n", row->result.seconds * 1e6,
                row->flop_per_second * 1e-9, row->bytes_per_second * 1e-9, row->share, limit_text(row),
                row->result.relative_error, row->result.runs, output->ceilings->read_bytes_per_second * 1e-9,
                output->ceilings->flop_per_second * 1e-9, row->result.predicted_seconds * 1e6, row->result.rank);
    }
}
