/* SPDX-License-Identifier: Apache-2.0
 * Fibers for emulate.h: one for each thread of a CTA, which runs until it must wait for others. */
#include "emulate.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <ucontext.h>
#include <vector>

emulated_index threadIdx, blockIdx, gridDim;

namespace {

enum { STACK_BYTES = 128 << 10, MOST_THREADS = 1024, MOST_YIELDS = 1 << 22 };

struct copy {
    void *target;
    const void *source;
    uint32_t bytes;
};

struct fiber {
    ucontext_t start;
    jmp_buf at;
    bool started, ended;
    std::vector<copy> open;               /* copies since the last commit */
    std::deque<std::vector<copy>> groups; /* committed, not yet made */
};

struct warp {
    void *brought[32];
    int arrived;
    unsigned meetings;
};

struct barrier {
    int arrived;
    unsigned meetings;
};

std::mutex one_launch;
fiber fibers[MOST_THREADS];
warp warps[MOST_THREADS / 32];
barrier barriers[16];
std::vector<char> stacks;
jmp_buf scheduler;
unsigned thread_count, running;
int yields; /* since a meeting took place */
bool late_copies;
void (*thread_code)(const void *);
const void *thread_arguments;

[[noreturn]] void give_up(const char *text) {
    fprintf(stderr, "emulated kernel: %s (block %u, thread %u)\n", text, blockIdx.x, threadIdx.x);
    abort();
}

void make_copy(const copy &it) {
    memset(it.target, 0, 16);
    memcpy(it.target, it.source, it.bytes);
}

void body() {
    thread_code(thread_arguments);
    fibers[running].ended = true;
    yields = 0;
    longjmp(scheduler, 1);
}

/** Let another thread run: of the same warp if `of_warp`, else the next one. */
void yield(bool of_warp) {
    if (++yields > MOST_YIELDS) give_up("threads wait for one another");
    if (!setjmp(fibers[running].at)) {
        unsigned next = of_warp ? running / 32 * 32 + (running + 1) % 32 : (running + 1) % thread_count;
        while (fibers[next].ended) next = (next + 1) % thread_count;
        running = next;
        longjmp(scheduler, 2);
    }
    threadIdx.x = running;
}

void run_cta() {
    for (unsigned i = 0; i < thread_count; i++) {
        fibers[i].started = fibers[i].ended = false;
        fibers[i].open.clear();
        fibers[i].groups.clear();
    }
    memset(warps, 0, sizeof warps);
    memset(barriers, 0, sizeof barriers);
    running = 0;
    yields = 0;
    volatile unsigned ended = 0;
    if (setjmp(scheduler) == 1) { /* a thread has ended */
        ended = ended + 1;
        if (ended == thread_count) return;
        while (fibers[running].ended) running = (running + 1) % thread_count;
    }
    fiber &next = fibers[running];
    threadIdx.x = running;
    if (next.started) longjmp(next.at, 1);
    next.started = true;
    getcontext(&next.start);
    next.start.uc_stack.ss_sp = stacks.data() + (size_t)running * STACK_BYTES;
    next.start.uc_stack.ss_size = STACK_BYTES;
    next.start.uc_link = nullptr;
    makecontext(&next.start, body, 0);
    setcontext(&next.start);
}

} // namespace

void emulate_meet_warp(void (*work)(void *const brought[32]), void *mine) {
    warp &own = warps[running / 32];
    own.brought[running % 32] = mine;
    if (++own.arrived == 32) {
        own.arrived = 0;
        own.meetings++;
        yields = 0;
        work(own.brought);
        return;
    }
    for (unsigned meeting = own.meetings; own.meetings == meeting;) yield(true);
}

void emulate_meet_threads(int index, int threads) {
    barrier &own = barriers[index];
    if (++own.arrived == threads) {
        own.arrived = 0;
        own.meetings++;
        yields = 0;
        return;
    }
    for (unsigned meeting = own.meetings; own.meetings == meeting;) yield(false);
}

void emulate_copy(void *target, const void *source, uint32_t bytes) {
    copy it = {target, source, bytes};
    if (late_copies)
        fibers[running].open.push_back(it);
    else
        make_copy(it);
}

void emulate_commit() {
    fiber &own = fibers[running];
    own.groups.push_back(own.open);
    own.open.clear();
}

void emulate_wait(int pending) {
    fiber &own = fibers[running];
    while (own.groups.size() > (size_t)pending) {
        for (const copy &it : own.groups.front()) make_copy(it);
        own.groups.pop_front();
    }
}

void emulate_launch(unsigned grid, unsigned threads, bool late, void (*thread)(const void *arguments),
                    const void *arguments, void (*begin_cta)()) {
    std::lock_guard<std::mutex> guard(one_launch);
    if (threads > MOST_THREADS || threads % 32) give_up("no such number of threads");
    if (stacks.empty()) stacks.resize((size_t)MOST_THREADS * STACK_BYTES);
    thread_count = threads;
    late_copies = late;
    thread_code = thread;
    thread_arguments = arguments;
    gridDim.x = grid;
    for (blockIdx.x = 0; blockIdx.x < grid; blockIdx.x++) {
        begin_cta();
        run_cta();
    }
}
