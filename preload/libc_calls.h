/*
 * libc's own functions for the calls that are intercepted: `libc.close(fd)` is what close(fd) would
 * be without this library (or another preloaded library's).
 */
#pragma once

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "calls.h"
#include "own.h"

struct libc_calls {
#define MEMBER(result, name, parameters) result(*name) parameters;
    SYNERGY_CALLS(MEMBER)
    SYNERGY_TIME64_CALLS(MEMBER)
#undef MEMBER
};

OWN extern struct libc_calls libc;

/* What a system call's number is followed by, as libc has it: the caller gives as many arguments as
 * the call has, the others are whatever is there, and only passed on. (AddressSanitizer minds.) */
#define WORDS_AFTER(number, words)                                                                 \
    long words[6];                                                                                 \
    do {                                                                                           \
        va_list list;                                                                              \
        va_start(list, number);                                                                    \
        for (int i = 0; i < 6; i++)                                                                \
            (words)[i] = va_arg(list, long);                                                       \
        va_end(list);                                                                              \
    } while (0)

/* What syscall(2) is, whoever intercepts that (torsocks refuses what it does not know). */
OWN long kernel(long number, ...);

/* To be called once, from the library's constructor: the loader may be asked there, and nowhere
 * else. */
void find_libc_calls(void);
