/* SPDX-License-Identifier: Apache-2.0
 * One progress line on stderr. */
#include "progress.h"

#include "cli.h"
#include "table.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static double started, last_shown, limit;
static bool enabled, visible;

void progress_begin(void) {
    started = seconds_now();
    last_shown = 0;
    limit = 0;
    visible = false;
    const char *terminal = getenv("TERM");
    enabled = isatty(STDERR_FILENO) && !(terminal && !strcmp(terminal, "dumb"));
}

void progress_limit(double seconds) {
    limit = seconds;
}

void progress_clear(void) {
    if (!visible) return;
    fputs("\r\033[K", stderr);
    visible = false;
}

void progress_show(double done, double total, const char *what) {
    double now = seconds_now();
    if (!enabled || now - started < 1 || now - last_shown < 0.1 || !(done > 0) || !(total > 0)) return;
    last_shown = now;
    double share = done < total ? done / total : 1;
    double left = (now - started) * (1 - share) / share;
    if (limit > 0 && left > limit - (now - started)) left = now - started < limit ? limit - (now - started) : 0;
    struct winsize window;
    int columns = 80;
    if (!ioctl(STDERR_FILENO, TIOCGWINSZ, &window) && window.ws_col > 0) columns = window.ws_col;
    char bar[21];
    for (int i = 0; i < 20; i++) bar[i] = i < (int)(share * 20) ? '#' : '.';
    bar[20] = 0;
    char *line = format_text("[%s] %3.0f %%  about %s left  %s", bar, share * 100, seconds_text(left), what);
    /* A line that wraps could not be removed again. */
    if (strlen(line) >= (size_t)columns) line[columns - 1] = 0;
    fputs("\r", stderr);
    print_clean(line, stderr);
    fputs("\033[K", stderr);
    fflush(stderr);
    free(line);
    visible = true;
}
