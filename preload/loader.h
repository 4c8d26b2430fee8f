/* How the shim finds libc's functions and the engine. */
#pragma once

#include "keeper/engine_table.h"

#include <sys/socket.h>
#include <sys/types.h>

/* The next definition of a function after this library's own: libc's, or another preloaded
 * library's. One that doesn't exist yields a function that fails with ENOSYS. */
void *synergy_next(const char *name);

/* libc's functions for the engine (preload.c has them). */
const struct synergy_libc *synergy_libc(void);

/* What a thread of the engine says of itself: for it there is no engine, and nothing to note. */
void synergy_pass_this_thread(void);
int synergy_thread_is_ours(void);

/* Whether the user has set anything, as far as can be told without reading it. Keeps errno. */
int synergy_has_settings(void);

/* The engine if this process has one already, else NULL. One load. */
const struct synergy_engine *synergy_engine_loaded(void);

/* The engine, opened now if the process has any setting; NULL if it has none or the engine can't
 * be opened (said once on stderr). Keeps errno. */
const struct synergy_engine *synergy_engine_load(void);

/* The engine whether there are settings or not, for a program that calls it by name. */
const struct synergy_engine *synergy_engine_need(void);
