/*
 * What the hooks have in common. Each calls libc with the caller's own arguments, which are the
 * kernel's to judge, and returns what libc returned. Where nothing is set that costs a load, and
 * for a descriptor that is not ours another one. The hooks stand in hooks_*.c, by subject.
 */
#pragma once

#include "aside.h"
#include "filters.h"
#include "left_out.h"
#include "libc_calls.h"
#include "own.h"
#include "process.h"
#include "server_sockets.h"
#include "settings_look.h"

/* A hook may be called before any constructor: by what resolves symbols, or another library that
 * comes first. */
int begin_early(void);

static inline int concerns_us(void) {
    int known = __atomic_load_n(&concern, __ATOMIC_ACQUIRE);
    if (__builtin_expect(known == NOTHING, 1))
        return 0;
    return known == SOMETHING || begin_early();
}

/* Statements of our own within a call of the server's; not in a child by vfork(), nor where a
 * filter forbids them. */
#define ASIDE(statements)                                                                          \
    do {                                                                                           \
        if (!may_ask())                                                                            \
            break;                                                                                 \
        struct aside aside = aside_begin();                                                        \
        if (process_is_own()) {                                                                    \
            statements;                                                                            \
        }                                                                                          \
        aside_end(&aside);                                                                         \
    } while (0)

OWN extern int is_stock_taken;
void take_stock_once(void);

/* Once a process, before it waits for anything: what was left to it is met. At the first bind() or
 * listen() too, since a server may forbid itself system calls after that. */
static inline void ensure_stock_is_taken(void) {
    if (__builtin_expect(!__atomic_load_n(&is_stock_taken, __ATOMIC_RELAXED), 0))
        take_stock_once();
}

void say_left_out(void);

/* Whether this thread has ever waited for several descriptors: what it accepts afterwards it may
 * have seen before. */
OWN extern _Thread_local int has_looked __attribute__((tls_model("initial-exec")));

/* Before poll() and its like, for several descriptors: a server that waits for its clients has
 * opened what it is for. */
static inline void before_polling(void) {
    has_looked = 1;
    ensure_stock_is_taken();
    if (__builtin_expect(__atomic_load_n(&left_out_port, __ATOMIC_RELAXED), 0))
        say_left_out();
}

/* What is known of the descriptor now: it has just been met, or its keeper replaced, which is not
 * to wait until a call has blocked. */
uint64_t word_after_all(int fd, enum encounter encounter);

int is_blocking(int fd);
