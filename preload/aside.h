/*
 * Work of ours within a call of the server's, which must not feel it: errno stays, no signal
 * handler runs and no cancellation acts in between (both come as soon as the work is done). System
 * calls are made without libc's functions, which may be cancellation points, or another library's
 * by now.
 */
#pragma once

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

/* The kernel's signal set (sigset_t is libc's, which keeps two signals for itself). */
struct signals {
    unsigned long words[(NSIG - 1) / 8 / sizeof(unsigned long)];
};

struct aside {
    int error;
    struct signals blocked;
};

struct aside aside_begin(void);
void aside_end(const struct aside *aside);

/* One line on the server's stderr, in pieces up to a NULL. Never blocks, raises no SIGPIPE, and
 * leaves a stderr alone that is a connection. Within aside_begin() only. */
void say(const char *const pieces[]);
#define SAY(...) say((const char *const[]){__VA_ARGS__, NULL})

/* How many of these bytes, fewer than a page, can be read: the caller's pointers may be anything
 * where the kernel had no use for them. Changes errno. */
enum { LEAST_PAGE = 4096 };
size_t readable_bytes(const void *address, size_t size);

/* So near above on the stack that it needs no asking: to be called from a hook's own frames. */
static inline int is_variable_of_caller(const void *address, size_t size) {
    char here;
    return (uintptr_t)address - (uintptr_t)&here < LEAST_PAGE - size;
}

/* Whether poll(2) would say so now. Changes errno. */
int is_readable(int fd);

void wait_a_millisecond(void);

/* Of CLOCK_MONOTONIC. */
uint32_t seconds_now(void);

/* What errno means, for a line. */
const char *error_text(int error);
