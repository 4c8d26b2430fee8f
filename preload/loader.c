#include "loader.h"

#include "marks.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* $ORIGIN: the directory that this library was loaded from, whatever the working directory and the
 * search path are now (ld.so(8)). */
#ifndef SYNERGY_ENGINE
#define SYNERGY_ENGINE "$ORIGIN/libsynergy-engine.so"
#endif

/* (ssize_t: wide enough for every intercepted call.) */
static ssize_t missing(void) {
    errno = ENOSYS;
    return -1;
}

void *synergy_next(const char *name) {
    void *function = dlsym(RTLD_NEXT, name);
    return function ? function : (void *)missing;
}

static int file_is_there(const char *directory, const char *below) {
    char path[4096];
    int length = snprintf(path, sizeof path, "%s%s", directory, below);
    return length > 0 && (size_t)length < sizeof path && access(path, F_OK) == 0;
}

/* Whether the user said anything at all. What it is, and whether it is right, the engine finds
 * out: a process without settings must not pay for reading them. */
static int has_settings(void) {
    for (char **entry = environ; entry && *entry; entry++)
        if (strncmp(*entry, "SYNERGY_", 8) == 0)
            return 1;
    const char *config = secure_getenv("XDG_CONFIG_HOME"), *home = secure_getenv("HOME");
    if (config && *config) {
        if (file_is_there(config, "/synergy/synergy.toml"))
            return 1;
    } else if (home && *home && file_is_there(home, "/.config/synergy/synergy.toml")) {
        return 1;
    }
    return file_is_there(SYNERGY_SYSCONFDIR, "/synergy/synergy.toml");
}

/* Written once, by open_engine(); read by every hook. */
static _Atomic(const struct synergy_engine *) opened_engine;

/* The thread's own. (Without a call to find it: this library is there from the start.) */
static _Thread_local int is_ours __attribute__((tls_model("initial-exec")));

void synergy_pass_this_thread(void) {
    is_ours = 1;
}

int synergy_thread_is_ours(void) {
    return is_ours;
}

const struct synergy_engine *synergy_engine_loaded(void) {
    const struct synergy_engine *engine =
        atomic_load_explicit(&opened_engine, memory_order_acquire);
    return engine && !is_ours ? engine : NULL;
}

/* Set before open_engine() runs. */
static _Atomic(synergy_engine_open_fn *) engine_entry;

static void open_engine(void) {
    synergy_engine_open_fn *entry = atomic_load(&engine_entry);
    atomic_store_explicit(&opened_engine, entry(synergy_libc()), memory_order_release);
    /* A child by fork() has the marks, but no engine's thread. */
    pthread_atfork(NULL, NULL, inherit_marks);
}

static void complain(const char *why) {
    static _Atomic(int) complained;
    char line[1024];
    int length = snprintf(line, sizeof line,
                          "synergy: error: nothing is punched, the engine can't be loaded: %s\n",
                          why ? why : "unknown");
    if (length > 0 && !atomic_exchange(&complained, 1) &&
        write(STDERR_FILENO, line, strnlen(line, sizeof line)) < 0)
        return;
}

const struct synergy_engine *synergy_engine_need(void) {
    const struct synergy_engine *engine = synergy_engine_loaded();
    if (engine)
        return engine;
    /* Loaded outside of the once, which must not be waited for by who holds the loader's lock (a
     * library's constructor that calls bind()). Twice at the same time, it is the same library. */
    void *library = dlopen(SYNERGY_ENGINE, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    void *symbol = library ? dlsym(library, SYNERGY_ENGINE_OPEN) : NULL;
    if (!symbol) {
        complain(dlerror());
        return NULL;
    }
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    atomic_store(&engine_entry, (synergy_engine_open_fn *)symbol);
    pthread_once(&once, open_engine);
    return synergy_engine_loaded();
}

int synergy_has_settings(void) {
    /* Not pthread_once(), which makes a system call: a process without settings must not be seen to
     * do anything but look for them. Two threads may look at the same time, and find the same. */
    enum { NOT_LOOKED, NOTHING_SET, SET };
    static _Atomic(int) found = NOT_LOOKED;
    int known = atomic_load_explicit(&found, memory_order_relaxed);
    if (known == NOT_LOOKED) {
        int saved = errno;
        known = has_settings() ? SET : NOTHING_SET;
        atomic_store_explicit(&found, known, memory_order_relaxed);
        errno = saved;
    }
    return known == SET;
}

const struct synergy_engine *synergy_engine_load(void) {
    const struct synergy_engine *engine = synergy_engine_loaded();
    if (engine || is_ours || !synergy_has_settings())
        return engine;
    int saved = errno;
    engine = synergy_engine_need();
    errno = saved;
    return engine;
}
