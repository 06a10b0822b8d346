/* SPDX-License-Identifier: Apache-2.0
 * Files: outputs appear only on commit and whole, failures leave nothing behind. */
#include "core/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/w4a16-file-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[256];
    snprintf(command, sizeof command, "chmod -R u+rwx '%s' && rm -rf '%s'", folder, folder);
    return system(command);
}

/** FOLDER/name; a few results may be in use at once. */
static const char *in_folder(const char *name) {
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static int entries_of(const char *path) {
    DIR *directory = opendir(path);
    assert_non_null(directory);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(directory));)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(directory);
    return count;
}

static void put(const char *path, const char *content) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs(content, file);
    fclose(file);
}

static void assert_content(const char *path, const char *content) {
    w4_mapping mapping;
    assert_int_equal(w4_map_file(path, &mapping), W4A16_OK);
    assert_int_equal(mapping.size, strlen(content));
    if (*content) assert_memory_equal(mapping.data, content, strlen(content));
    w4_unmap_file(&mapping);
    assert_null(mapping.data);
    w4_unmap_file(&mapping); /* twice does no harm */
}

static void assert_error_names(const char *text) {
    if (!strstr(w4a16_last_error(), text)) fail_msg("'%s' is not in: %s", text, w4a16_last_error());
}

static void mapping_says_what_is_wrong(void **state) {
    (void)state;
    w4_mapping mapping = {(const uint8_t *)"untouched", 9};
    assert_int_equal(w4_map_file(in_folder("none"), &mapping), W4A16_ERROR_NOT_FOUND);
    assert_error_names("none");
    assert_int_equal(w4_map_file(folder, &mapping), W4A16_ERROR_IO);
    assert_error_names("folder");
    assert_int_equal(w4_map_file("/dev/null", &mapping), W4A16_ERROR_IO);
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0); /* nobody writes to it: this must not wait */
    assert_int_equal(w4_map_file(in_folder("pipe"), &mapping), W4A16_ERROR_IO);
    put(in_folder("plain"), "x");
    assert_int_equal(w4_map_file(in_folder("plain/below"), &mapping), W4A16_ERROR_IO);
    assert_int_equal(mapping.size, 9);
    put(in_folder("empty"), "");
    assert_content(in_folder("empty"), "");
}

static void an_output_appears_on_commit(void **state) {
    (void)state;
    const char *path = in_folder("out");
    w4_output output;
    assert_int_equal(w4_output_open(path, false, &output), W4A16_OK);
    assert_false(w4_path_exists(path));
    assert_int_equal(w4_output_write(&output, "hello ", 6), W4A16_OK);
    assert_int_equal(w4_output_write(&output, NULL, 0), W4A16_OK);
    assert_int_equal(w4_output_write(&output, "world", 5), W4A16_OK);
    assert_false(w4_path_exists(path));
    assert_int_equal(w4_output_commit(&output), W4A16_OK);
    assert_content(path, "hello world");
    assert_int_equal(entries_of(folder), 1);
    w4_output_abandon(&output); /* after commit: nothing */
    assert_content(path, "hello world");
}

static void a_new_file_has_the_usual_mode(void **state) {
    (void)state;
    mode_t mask = umask(027);
    w4_output output;
    assert_int_equal(w4_output_open(in_folder("out"), false, &output), W4A16_OK);
    assert_int_equal(w4_output_commit(&output), W4A16_OK);
    w4_output_directory directory;
    assert_int_equal(w4_output_directory_open(in_folder("dir"), false, &directory), W4A16_OK);
    assert_int_equal(w4_output_directory_commit(&directory), W4A16_OK);
    umask(mask);
    struct stat information;
    assert_int_equal(stat(in_folder("out"), &information), 0);
    assert_int_equal(information.st_mode & 0777, 0640);
    assert_int_equal(stat(in_folder("dir"), &information), 0);
    assert_int_equal(information.st_mode & 0777, 0750);
}

static void abandon_leaves_nothing(void **state) {
    (void)state;
    w4_output output;
    assert_int_equal(w4_output_open(in_folder("out"), false, &output), W4A16_OK);
    assert_int_equal(w4_output_write(&output, "half", 4), W4A16_OK);
    w4_output_abandon(&output);
    w4_output_abandon(&output);
    assert_int_equal(entries_of(folder), 0);
}

static void an_existing_file_stays(void **state) {
    (void)state;
    const char *path = in_folder("out");
    put(path, "old");
    w4_output output;
    assert_int_equal(w4_output_open(path, false, &output), W4A16_ERROR_EXISTS);
    assert_error_names(path);
    w4_output_abandon(&output);
    assert_int_equal(w4_output_open(path, true, &output), W4A16_OK);
    assert_int_equal(w4_output_write(&output, "new", 3), W4A16_OK);
    assert_content(path, "old");
    w4_output_abandon(&output);
    assert_content(path, "old");
    assert_int_equal(w4_output_open(path, true, &output), W4A16_OK);
    assert_int_equal(w4_output_write(&output, "new", 3), W4A16_OK);
    assert_int_equal(w4_output_commit(&output), W4A16_OK);
    assert_content(path, "new");
    assert_int_equal(entries_of(folder), 1);
}

/** Somebody else's file that appears while ours is being written is not ours to replace. */
static void a_file_that_appears_meanwhile_stays(void **state) {
    (void)state;
    const char *path = in_folder("out");
    w4_output output;
    assert_int_equal(w4_output_open(path, false, &output), W4A16_OK);
    assert_int_equal(w4_output_write(&output, "ours", 4), W4A16_OK);
    put(path, "theirs");
    assert_int_equal(w4_output_commit(&output), W4A16_ERROR_EXISTS);
    assert_content(path, "theirs");
    assert_int_equal(entries_of(folder), 1);
}

static void symbolic_links_count_as_existing(void **state) {
    (void)state;
    const char *link = in_folder("link");
    assert_int_equal(symlink(in_folder("nowhere"), link), 0);
    w4_output output;
    assert_int_equal(w4_output_open(link, false, &output), W4A16_ERROR_EXISTS);
    assert_int_equal(entries_of(folder), 1);
}

/** Renaming over a device or a pipe would delete it: not even with overwrite. */
static void devices_and_pipes_are_not_replaced(void **state) {
    (void)state;
    const char *pipe_path = in_folder("pipe");
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    w4_output output;
    w4a16_status status = w4_output_open(pipe_path, true, &output);
    if (!status) w4_output_abandon(&output);
    assert_true(status == W4A16_ERROR_IO || status == W4A16_ERROR_EXISTS);
    assert_error_names("pipe");
    struct stat information;
    assert_int_equal(lstat(pipe_path, &information), 0);
    assert_true(S_ISFIFO(information.st_mode));
    assert_int_equal(entries_of(folder), 1);
    status = w4_output_open("/dev/full", true, &output);
    if (!status) w4_output_abandon(&output);
    assert_true(status == W4A16_ERROR_IO || status == W4A16_ERROR_EXISTS);
}

static void places_that_cannot_be_written(void **state) {
    (void)state;
    w4_output output;
    assert_int_equal(w4_output_open(in_folder("none/out"), false, &output), W4A16_ERROR_NOT_FOUND);
    assert_error_names("none/out");
    put(in_folder("plain"), "x");
    assert_int_equal(w4_output_open(in_folder("plain/out"), false, &output), W4A16_ERROR_IO);
    assert_int_equal(mkdir(in_folder("dir"), 0700), 0);
    assert_int_not_equal(w4_output_open(in_folder("dir"), true, &output), W4A16_OK);
    assert_int_not_equal(w4_output_open("", false, &output), W4A16_OK);
    assert_int_equal(entries_of(folder), 2);
    /* The superuser may write where the mode says no: this part needs an ordinary user or a read-only file system. */
    assert_int_equal(chmod(in_folder("dir"), 0500), 0);
    if (access(in_folder("dir"), W_OK) != 0) {
        assert_int_equal(w4_output_open(in_folder("dir/out"), false, &output), W4A16_ERROR_IO);
        assert_error_names("dir/out");
    } else {
        assert_int_not_equal(w4_output_open("/proc/w4a16-out", false, &output), W4A16_OK);
        assert_int_not_equal(w4_output_open("/sys/w4a16-out", false, &output), W4A16_OK);
    }
    w4_output_abandon(&output);
}

/** A name as long as the file system takes must work for the output too, not only for a shorter temporary. */
static void the_longest_name_works(void **state) {
    (void)state;
    char name[256];
    memset(name, 'n', 255);
    name[255] = 0;
    const char *path = in_folder(name);
    w4_output output;
    assert_int_equal(w4_output_open(path, false, &output), W4A16_OK);
    assert_int_equal(w4_output_commit(&output), W4A16_OK);
    assert_true(w4_path_exists(path));
    w4_output_directory directory;
    name[0] = 'd';
    assert_int_equal(w4_output_directory_open(in_folder(name), false, &directory), W4A16_OK);
    assert_int_equal(w4_output_directory_commit(&directory), W4A16_OK);
    assert_int_equal(entries_of(folder), 2);
}

/** What a full disk does: write() fails in the middle. */
static void a_full_disk_leaves_nothing(void **state) {
    (void)state;
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    limit = before;
    limit.rlim_cur = 100000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    char *data = calloc(1, 300000);
    w4_output output;
    w4a16_status opened = w4_output_open(in_folder("out"), false, &output);
    w4a16_status written = opened ? opened : w4_output_write(&output, data, 300000);
    char text[512];
    snprintf(text, sizeof text, "%s", w4a16_last_error());
    w4_output_abandon(&output);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    free(data);
    assert_int_equal(opened, W4A16_OK);
    assert_int_equal(written, W4A16_ERROR_IO);
    assert_non_null(strstr(text, "out"));
    assert_int_equal(entries_of(folder), 0);
}

/** A descriptor that fails at the very end: /dev/full refuses each write with "no space left". */
static void errors_of_the_device_are_reported(void **state) {
    (void)state;
    w4_output output;
    assert_int_equal(w4_output_open(in_folder("out"), false, &output), W4A16_OK);
    int full = open("/dev/full", O_WRONLY);
    assert_true(full >= 0);
    assert_true(dup2(full, output.descriptor) >= 0);
    close(full);
    assert_int_equal(w4_output_write(&output, "x", 1), W4A16_ERROR_IO);
    assert_error_names("out");
    w4_output_abandon(&output);
    assert_int_equal(entries_of(folder), 0);
}

static void directories_appear_on_commit(void **state) {
    (void)state;
    const char *path = in_folder("model");
    w4_output_directory output;
    assert_int_equal(w4_output_directory_open(path, false, &output), W4A16_OK);
    assert_false(w4_path_exists(path));
    char *inside;
    assert_int_equal(w4_join_path(output.staging, "a", &inside), W4A16_OK);
    put(inside, "first");
    free(inside);
    assert_int_equal(w4_output_directory_commit(&output), W4A16_OK);
    assert_content(in_folder("model/a"), "first");

    assert_int_equal(w4_output_directory_open(path, false, &output), W4A16_ERROR_EXISTS);
    assert_error_names(path);
    /* A trailing slash names the same folder. */
    assert_int_equal(w4_output_directory_open(in_folder("model///"), true, &output), W4A16_OK);
    assert_int_equal(w4_join_path(output.staging, "b", &inside), W4A16_OK);
    put(inside, "second");
    free(inside);
    assert_content(in_folder("model/a"), "first");
    assert_int_equal(w4_output_directory_commit(&output), W4A16_OK);
    assert_content(in_folder("model/b"), "second");
    assert_false(w4_path_exists(in_folder("model/a")));
    assert_int_equal(entries_of(folder), 1);
}

static void abandoned_directories_leave_nothing(void **state) {
    (void)state;
    w4_output_directory output;
    assert_int_equal(w4_output_directory_open(in_folder("model"), false, &output), W4A16_OK);
    char *inside, *deeper;
    assert_int_equal(w4_join_path(output.staging, "deep", &inside), W4A16_OK);
    assert_int_equal(mkdir(inside, 0700), 0);
    assert_int_equal(w4_join_path(inside, "file", &deeper), W4A16_OK);
    put(deeper, "x");
    free(inside);
    free(deeper);
    w4_output_directory_abandon(&output);
    w4_output_directory_abandon(&output);
    assert_int_equal(entries_of(folder), 0);
    put(in_folder("plain"), "x");
    assert_int_not_equal(w4_output_directory_open(in_folder("plain"), true, &output), W4A16_OK);
    assert_content(in_folder("plain"), "x");
    assert_int_equal(w4_output_directory_open(in_folder("none/model"), false, &output), W4A16_ERROR_NOT_FOUND);
    assert_int_equal(entries_of(folder), 1);
}

/** A folder that appears meanwhile stays, also an empty one, which a plain rename would replace. */
static void a_directory_that_appears_meanwhile_stays(void **state) {
    (void)state;
    w4_output_directory output;
    assert_int_equal(w4_output_directory_open(in_folder("model"), false, &output), W4A16_OK);
    char *inside;
    assert_int_equal(w4_join_path(output.staging, "ours", &inside), W4A16_OK);
    put(inside, "x");
    free(inside);
    assert_int_equal(mkdir(in_folder("model"), 0700), 0);
    assert_int_equal(w4_output_directory_commit(&output), W4A16_ERROR_EXISTS);
    assert_int_equal(entries_of(folder), 1);
    assert_int_equal(entries_of(in_folder("model")), 0);
}

static void copies_are_whole(void **state) {
    (void)state;
    put(in_folder("a"), "content");
    assert_int_equal(w4_copy_file(in_folder("a"), in_folder("b")), W4A16_OK);
    assert_content(in_folder("b"), "content");
    assert_int_equal(w4_copy_file(in_folder("a"), in_folder("b")), W4A16_ERROR_EXISTS);
    assert_int_equal(w4_copy_file(in_folder("c"), in_folder("d")), W4A16_ERROR_NOT_FOUND);
    assert_int_equal(w4_copy_file(folder, in_folder("d")), W4A16_ERROR_IO);
    put(in_folder("e"), "");
    assert_int_equal(w4_copy_file(in_folder("e"), in_folder("f")), W4A16_OK);
    assert_content(in_folder("f"), "");
    assert_int_equal(entries_of(folder), 4);
}

static void paths_join_with_one_slash(void **state) {
    (void)state;
    static const char *const cases[][3] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}};
    for (size_t i = 0; i < 3; i++) {
        char *joined;
        assert_int_equal(w4_join_path(cases[i][0], cases[i][1], &joined), W4A16_OK);
        assert_string_equal(joined, cases[i][2]);
        free(joined);
    }
}

#define FOLDER_TEST(function) cmocka_unit_test_setup_teardown(function, make_folder, remove_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        FOLDER_TEST(mapping_says_what_is_wrong),
        FOLDER_TEST(an_output_appears_on_commit),
        FOLDER_TEST(a_new_file_has_the_usual_mode),
        FOLDER_TEST(abandon_leaves_nothing),
        FOLDER_TEST(an_existing_file_stays),
        FOLDER_TEST(a_file_that_appears_meanwhile_stays),
        FOLDER_TEST(symbolic_links_count_as_existing),
        FOLDER_TEST(devices_and_pipes_are_not_replaced),
        FOLDER_TEST(places_that_cannot_be_written),
        FOLDER_TEST(the_longest_name_works),
        FOLDER_TEST(a_full_disk_leaves_nothing),
        FOLDER_TEST(errors_of_the_device_are_reported),
        FOLDER_TEST(directories_appear_on_commit),
        FOLDER_TEST(abandoned_directories_leave_nothing),
        FOLDER_TEST(a_directory_that_appears_meanwhile_stays),
        FOLDER_TEST(copies_are_whole),
        cmocka_unit_test(paths_join_with_one_slash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
