/*
 * Whether the user has set anything, as far as can be told without reading it. What it is, and
 * whether it is right, is the keeper's to find out.
 */
#pragma once

#include "own.h"

#include <stdint.h>

enum concern {
    NOT_LOOKED, /* a hook was called before the library's constructor */
    NOTHING,    /* every call goes straight to libc */
    SOMETHING,
};

OWN extern int concern;

/* Looks. To be called once, with the environment (environ is not there before libc's own
 * constructor). */
void look_for_settings(char **environment);

/* Nothing is to be had: no peers are set, and none can come. */
void stop_caring(void);

/* Makes ready for keepers where nothing is set: for a program that calls synergy(). False where
 * there is no memory. */
int care(void);

static inline int is_concerned(void) {
    return __atomic_load_n(&concern, __ATOMIC_ACQUIRE) == SOMETHING;
}

/* Whether SYNERGY_PORTS lets this local port have peers. Yes where that can't be told here. */
int settings_mean_port(uint16_t port);

/* Whether the process may have got the descriptor with its program: from inetd(8) as 0, from
 * systemd as LISTEN_FDS says (sd_listen_fds(3)). */
OWN extern int passed_at_start;
static inline int is_passed_at_start(int fd) {
    return fd == 0 || (fd > 2 && fd < passed_at_start);
}

/* Whether a program that is executed with this environment has the library as this one has it. */
int is_library_in(char *const environment[]);

/* Whether SYNERGY_LOG lets nothing be said. */
int settings_want_silence(void);

/* One of the environment, as it was when the library was loaded; NULL: not set. */
const char *settings_variable(const char *name);

/* What a keeper gets to know of the environment, as it was when the library was loaded. */
char **keeper_environment(void);
