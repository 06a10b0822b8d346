/* SPDX-License-Identifier: Apache-2.0
 * Caches as JSON text: read with every field checked, written with a line for each point. */
#include "format/quantization.h"
#include "plan/plan.h"
#include "tune/cache.h"

#include "core/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char FORMAT[] = "w4a16 cache";
enum { VERSION = 1 };
static const uint64_t LARGEST_CACHE = 64u << 20; /* bytes; a point takes about 500 */

/* ---- Reading ------------------------------------------------------------------------------------------------- */

/** Where in the text we are: "devices[0].problems[2].points[1]". */
typedef struct reader {
    const char *source;
    char place[96];
} reader;

static w4a16_status fail_field(const reader *self, const char *key, const char *right) {
    return w4_fail(W4A16_ERROR_FORMAT, "%s: no sound cache: %s%s'%s' must be %s", self->source, self->place,
                   self->place[0] ? ": " : "", key, right);
}

static w4a16_status read_integer(const reader *self, const json_t *object, const char *key, int64_t least, int64_t most,
                                 int64_t *value) {
    const json_t *field = json_object_get(object, key);
    *value = json_integer_value(field);
    if (json_is_integer(field) && *value >= least && *value <= most) return W4A16_OK;
    char right[96];
    snprintf(right, sizeof right, "a whole number from %" PRId64 " to %" PRId64, least, most);
    return fail_field(self, key, right);
}

/** Printable ASCII, at least one character, and it fits. */
static bool copy_text(const json_t *value, char *text, size_t size) {
    const char *found = json_string_value(value);
    if (!found || !*found || strlen(found) != json_string_length(value) || strlen(found) >= size) return false;
    for (const char *c = found; *c; c++)
        if (*c < 0x20 || *c >= 0x7f) return false;
    snprintf(text, size, "%s", found);
    return true;
}

static w4a16_status read_text(const reader *self, const json_t *object, const char *key, char *text, size_t size) {
    if (copy_text(json_object_get(object, key), text, size)) return W4A16_OK;
    char right[64];
    snprintf(right, sizeof right, "1 to %zu characters of ASCII", size - 1);
    return fail_field(self, key, right);
}

static w4a16_status read_array(const reader *self, const json_t *object, const char *key, const json_t **array) {
    *array = json_object_get(object, key);
    return json_is_array(*array) ? W4A16_OK : fail_field(self, key, "a list");
}

/** A word of a list; its place there. */
static w4a16_status read_word(const reader *self, const json_t *object, const char *key, const char *const *words,
                              size_t count, int *value) {
    const char *found = json_string_value(json_object_get(object, key));
    for (size_t i = 0; found && i < count; i++)
        if (words[i] && strcmp(words[i], found) == 0) {
            *value = (int)i;
            return W4A16_OK;
        }
    char right[96] = "one of";
    for (size_t i = 0; i < count; i++)
        if (words[i]) snprintf(right + strlen(right), sizeof right - strlen(right), " '%s'", words[i]);
    return fail_field(self, key, right);
}

static const char *const activation_words[] = {[W4A16_FP16] = "fp16", [W4A16_BF16] = "bf16"};
static const char *const scale_words[] = {[W4A16_FP16] = "fp16", [W4A16_BF16] = "bf16", [W4A16_FP32] = "fp32"};
static const char *const zero_words[] = {"symmetric", "integer", "float"};
static const char *const scales_words[] = {"even", "uneven"};
static const struct {
    const char *word;
    uint32_t flag;
} flag_words[] = {{"batch-invariant", W4A16_PLAN_BATCH_INVARIANT}, {"no-overlap", W4A16_PLAN_NO_OVERLAP}};
#define WORDS(list) list, sizeof list / sizeof *(list)

static w4a16_status read_flags(const reader *self, const json_t *object, uint32_t *flags) {
    const json_t *list, *value;
    size_t i;
    W4_TRY(read_array(self, object, "flags", &list));
    *flags = 0;
    json_array_foreach(list, i, value) {
        size_t known = 0, count = sizeof flag_words / sizeof *flag_words;
        const char *word = json_string_value(value);
        while (word && known < count && strcmp(flag_words[known].word, word) != 0) known++;
        if (!word || known == count) return fail_field(self, "flags", "a list of 'batch-invariant' and 'no-overlap'");
        *flags |= flag_words[known].flag;
    }
    return W4A16_OK;
}

static w4a16_status read_problem(const reader *self, const json_t *object, w4_problem *problem) {
    w4a16_problem read;
    int a, c, scale, zeros, uneven;
    w4a16_problem_init(&read);
    read.m = 1;
    W4_TRY(read_integer(self, object, "n", 1, W4_PLAN_LARGEST_M, &read.n));
    W4_TRY(read_integer(self, object, "k", 1, W4_PLAN_LARGEST_M, &read.k));
    W4_TRY(read_integer(self, object, "group_size", -1, W4_PLAN_LARGEST_M, &read.group_size));
    W4_TRY(read_word(self, object, "dtype", WORDS(activation_words), &a));
    W4_TRY(read_word(self, object, "output_dtype", WORDS(activation_words), &c));
    W4_TRY(read_word(self, object, "scale_dtype", WORDS(scale_words), &scale));
    W4_TRY(read_word(self, object, "zero_points", WORDS(zero_words), &zeros));
    W4_TRY(read_word(self, object, "scales", WORDS(scales_words), &uneven));
    W4_TRY(read_flags(self, object, &read.flags));
    read.a_dtype = (w4a16_dtype)a;
    read.c_dtype = (w4a16_dtype)c;
    read.scale_dtype = (w4a16_dtype)scale;
    read.zero_kind = (w4a16_zero_kind)zeros;
    read.uneven_scales = uneven;
    w4a16_status status = w4_problem_resolve(&read, problem);
    return status ? fail_field(self, "group_size", "a multiple of 32, or -1") : W4A16_OK;
}

/** "2026-11-21T16:05:00Z", as far as comparing dates as texts needs it. */
static bool is_date(const char *text) {
    static const char form[] = "0000-00-00T00:00:00Z";
    if (strlen(text) != sizeof form - 1) return false;
    for (size_t i = 0; i < sizeof form - 1; i++)
        if (form[i] == '0' ? text[i] < '0' || text[i] > '9' : text[i] != form[i]) return false;
    return true;
}

static w4a16_status read_point(const reader *self, const json_t *object, w4_cache_entry *entry) {
    int64_t timed;
    const json_t *list, *pair;
    size_t i;
    W4_TRY(read_integer(self, object, "m", 1, W4_PLAN_LARGEST_M, &entry->problem.m));
    W4_TRY(read_integer(self, object, "timed", 1, INT32_MAX, &timed));
    W4_TRY(read_text(self, object, "date", entry->date, sizeof entry->date));
    if (!is_date(entry->date)) return fail_field(self, "date", "a time such as 2026-11-21T16:05:00Z");
    W4_TRY(read_array(self, object, "configs", &list));
    entry->timed = (int)timed;
    entry->count = 0;
    if (json_array_size(list) < 1 || json_array_size(list) > W4_TUNED_KEPT)
        return fail_field(self, "configs", "a list of 1 to 8 pairs [name, microseconds]");
    json_array_foreach(list, i, pair) {
        w4_cache_result *result = &entry->results[entry->count];
        const json_t *time = json_array_get(pair, 1);
        result->microseconds = json_number_value(time);
        bool sound = json_array_size(pair) == 2 && json_is_number(time) && isfinite(result->microseconds) &&
                     result->microseconds > 0 &&
                     copy_text(json_array_get(pair, 0), result->config, sizeof result->config);
        if (!sound || (i && result->microseconds < result[-1].microseconds))
            return fail_field(self, "configs", "a list of 1 to 8 pairs [name, microseconds], the fastest first");
        entry->count++;
    }
    return W4A16_OK;
}

static w4a16_status read_problems(reader *self, const json_t *problems, w4_cache_entry *entry, size_t device,
                                  w4a16_cache *cache) {
    const json_t *problem, *points, *point;
    size_t i, j;
    json_array_foreach(problems, i, problem) {
        snprintf(self->place, sizeof self->place, "devices[%zu].problems[%zu]", device, i);
        W4_TRY(read_problem(self, problem, &entry->problem));
        W4_TRY(read_array(self, problem, "points", &points));
        json_array_foreach(points, j, point) {
            snprintf(self->place, sizeof self->place, "devices[%zu].problems[%zu].points[%zu]", device, i, j);
            W4_TRY(read_point(self, point, entry));
            W4_TRY(w4_cache_add(cache, entry));
        }
    }
    return W4A16_OK;
}

static w4a16_status read_devices(reader *self, const json_t *root, w4a16_cache *cache) {
    const json_t *devices, *device, *problems;
    size_t i;
    int64_t processors, memory_mhz;
    W4_TRY(read_array(self, root, "devices", &devices));
    json_array_foreach(devices, i, device) {
        w4_cache_entry entry = {.count = 0};
        w4_identity *identity = &entry.identity;
        snprintf(self->place, sizeof self->place, "devices[%zu]", i);
        W4_TRY(read_text(self, device, "device", identity->device, sizeof identity->device));
        W4_TRY(read_text(self, device, "code", identity->code, sizeof identity->code));
        W4_TRY(read_integer(self, device, "processors", 1, INT32_MAX, &processors));
        W4_TRY(read_integer(self, device, "memory_mhz", 0, INT32_MAX, &memory_mhz));
        W4_TRY(read_text(self, device, "library", identity->fingerprint, sizeof identity->fingerprint));
        W4_TRY(read_array(self, device, "problems", &problems));
        identity->processors = (int32_t)processors;
        identity->memory_mhz = (int32_t)memory_mhz;
        W4_TRY(read_problems(self, problems, &entry, i, cache));
    }
    return W4A16_OK;
}

w4a16_status w4_cache_parse(const void *text, uint64_t size, const char *source, w4a16_cache *cache) {
    reader self = {.source = source};
    w4a16_cache result = {.entries = NULL};
    json_t *root;
    if (size > LARGEST_CACHE)
        return w4_fail(W4A16_ERROR_FORMAT, "%s: %" PRIu64 " bytes; a cache has at most %" PRIu64, source, size,
                       LARGEST_CACHE);
    W4_TRY(w4_json_parse(text, size, source, &root));
    const char *format = json_string_value(json_object_get(root, "format"));
    const json_t *version = json_object_get(root, "version");
    w4a16_status status = W4A16_OK;
    if (!format || strcmp(format, FORMAT) != 0 || !json_is_integer(version))
        status = w4_fail(W4A16_ERROR_FORMAT,
                         "%s: is no cache of this library: 'format' must be '%s' and 'version' a whole number", source,
                         FORMAT);
    else if (json_integer_value(version) != VERSION)
        status = w4_fail(W4A16_ERROR_FORMAT, "%s: a cache of version %lld; this library reads version %d", source,
                         (long long)json_integer_value(version), VERSION);
    if (!status) status = read_devices(&self, root, &result);
    json_decref(root);
    if (status) {
        w4_cache_clear(&result);
        return status;
    }
    w4_cache_sort(&result);
    *cache = result;
    return W4A16_OK;
}

/* ---- Writing ------------------------------------------------------------------------------------------------- */

/** Through jansson: a number's point is one in every locale. */
static void print_value(FILE *stream, json_t *value) {
    /* Where there was no memory the text is no JSON, and w4_cache_print refuses it. */
    if (value) json_dumpf(value, stream, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
    json_decref(value);
}

static void print_text(FILE *stream, const char *text) {
    print_value(stream, json_string(text));
}

static void print_identity(FILE *stream, const w4_identity *identity) {
    fputs("    {\n      \"device\": ", stream);
    print_text(stream, identity->device);
    fputs(",\n      \"code\": ", stream);
    print_text(stream, identity->code);
    fprintf(stream,
            ",\n      \"processors\": %d,\n      \"memory_mhz\": %d,\n      \"library\": ", (int)identity->processors,
            (int)identity->memory_mhz);
    print_text(stream, identity->fingerprint);
    fputs(",\n      \"problems\": [\n", stream);
}

static void print_problem(FILE *stream, const w4_problem *problem) {
    fprintf(stream,
            "        {\n          \"n\": %" PRId64 ", \"k\": %" PRId64 ", \"group_size\": %" PRId64
            ", \"zero_points\": \"%s\", \"scales\": \"%s\",\n          \"dtype\": \"%s\", \"output_dtype\": \"%s\", "
            "\"scale_dtype\": \"%s\", \"flags\": [",
            problem->n, problem->k, problem->group_size < problem->k ? problem->group_size : -1,
            zero_words[problem->zero_kind], scales_words[problem->uneven_scales], activation_words[problem->a_dtype],
            activation_words[problem->c_dtype], scale_words[problem->scale_dtype]);
    bool first = true;
    for (size_t i = 0; i < sizeof flag_words / sizeof *flag_words; i++) {
        if (!(problem->flags & flag_words[i].flag)) continue;
        fprintf(stream, "%s\"%s\"", first ? "" : ", ", flag_words[i].word);
        first = false;
    }
    fputs("],\n          \"points\": [\n", stream);
}

static void print_point(FILE *stream, const w4_cache_entry *entry) {
    fprintf(stream, "            {\"m\": %" PRId64 ", \"configs\": [", entry->problem.m);
    for (int i = 0; i < entry->count; i++) {
        fputs(i ? ", [" : "[", stream);
        print_text(stream, entry->results[i].config);
        fputs(", ", stream);
        print_value(stream, json_real(entry->results[i].microseconds));
        fputc(']', stream);
    }
    fprintf(stream, "], \"timed\": %d, \"date\": ", entry->timed);
    print_text(stream, entry->date);
    fputc('}', stream);
}

static bool same_device(const w4_cache_entry *a, const w4_cache_entry *b) {
    return a->identity.processors == b->identity.processors && a->identity.memory_mhz == b->identity.memory_mhz &&
           strcmp(a->identity.device, b->identity.device) == 0 && strcmp(a->identity.code, b->identity.code) == 0 &&
           strcmp(a->identity.fingerprint, b->identity.fingerprint) == 0;
}

static bool same_problem(const w4_cache_entry *a, const w4_cache_entry *b) {
    w4_problem problem = a->problem;
    problem.m = b->problem.m;
    return same_device(a, b) && w4_tuned_compare(&problem, &b->problem) == 0;
}

w4a16_status w4_cache_print(const w4a16_cache *cache, char **text) {
    char *buffer = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&buffer, &size);
    if (!stream) return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the text of a cache");
    fprintf(stream, "{\n  \"format\": \"%s\",\n  \"version\": %d,\n  \"devices\": [%s", FORMAT, VERSION,
            cache->count ? "\n" : "");
    for (size_t i = 0; i < cache->count; i++) {
        const w4_cache_entry *entry = &cache->entries[i], *before = entry - 1, *after = entry + 1;
        bool opens_device = !i || !same_device(before, entry), opens_problem = !i || !same_problem(before, entry);
        bool last = i + 1 == cache->count;
        bool ends_device = last || !same_device(entry, after), ends_problem = last || !same_problem(entry, after);
        if (opens_device) print_identity(stream, &entry->identity);
        if (opens_problem) print_problem(stream, &entry->problem);
        print_point(stream, entry);
        if (!ends_problem) fputs(",\n", stream);
        if (ends_problem) fputs("\n          ]\n        }", stream);
        if (ends_problem && !ends_device) fputs(",\n", stream);
        if (ends_device) fputs("\n      ]\n    }", stream);
        if (ends_device) fputs(last ? "\n  " : ",\n", stream);
    }
    fputs("]\n}\n", stream);
    bool failed = ferror(stream) != 0;
    json_t *check = fclose(stream) || failed ? NULL : json_loads(buffer, 0, NULL);
    if (!check) {
        free(buffer);
        return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the text of a cache");
    }
    json_decref(check);
    *text = buffer;
    return W4A16_OK;
}
