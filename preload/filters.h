/*
 * What the system call filters that this process has given itself leave to us (seccomp(2)). Most
 * end the process for what they don't know; so whatever a filter does not let pass is not tried.
 * Filters are inherited, and never go away.
 *
 * (Of those that were there before the program nothing is known: they let it begin, and the units
 * and containers that have them let their programs start others.)
 */
#pragma once

#include "own.h"

OWN extern int is_beginning_forbidden, is_asking_forbidden, is_telling_forbidden,
    is_probing_forbidden, is_looking_forbidden, is_handling_forbidden, is_hanging_up_forbidden;

/* Whether we may make the system calls of the exchange with a keeper, and of what goes with it. */
static inline int may_ask(void) {
    return __atomic_load_n(&is_asking_forbidden, __ATOMIC_RELAXED) == 0;
}

/* Whether we may find out that a connection is a bell, and say so to who rang it. */
static inline int may_tell(void) {
    return __atomic_load_n(&is_telling_forbidden, __ATOMIC_RELAXED) == 0;
}

/* Whether we may start a keeper, and look for what the process has. */
static inline int may_begin(void) {
    return may_ask() && __atomic_load_n(&is_beginning_forbidden, __ATOMIC_RELAXED) == 0;
}

/* Whether the kernel may be asked what the caller's pointers are (readable_bytes()). */
static inline int may_probe(void) {
    return __atomic_load_n(&is_probing_forbidden, __ATOMIC_RELAXED) == 0;
}

/* Whether the kernel may be asked about sockets (other_end.h). */
static inline int may_look(void) {
    return may_ask() && __atomic_load_n(&is_looking_forbidden, __ATOMIC_RELAXED) == 0;
}

/* Whether we may end an exchange with a keeper before its answer is there. */
static inline int may_hang_up(void) {
    return __atomic_load_n(&is_hanging_up_forbidden, __ATOMIC_RELAXED) == 0;
}

/* Whether we may ask how a signal is handled. */
static inline int may_look_at_handlers(void) {
    return __atomic_load_n(&is_handling_forbidden, __ATOMIC_RELAXED) == 0;
}

/* A filter of this process's own has been set: a `struct sock_fprog` that the kernel has taken;
 * NULL: the strict mode, which allows reading and writing alone. Makes no system call. */
void filter_is_set(const void *program);
