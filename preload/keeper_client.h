/*
 * The keepers that this process knows, and how they are asked: one request and one answer over a
 * Unix socket. Most processes know one; sockets of another owner or network namespace, and those
 * that another server left, have another.
 *
 * No lock, no memory but this; everything here is to be called within aside_begin() only, unless it
 * says otherwise.
 */
#pragma once

#include "descriptors.h"
#include "keeper_start.h"
#include "own.h"
#include "wire.h"

#include <sys/types.h>

enum { KEEPERS = 1 << KEEPER_BITS, NO_KEEPER = -1 };

/* Their pages, filled from the first on. A page stays mapped where it is; another keeper's may take
 * its place there. */
OWN extern struct synergy_page *keeper_pages[KEEPERS];

/* What accept() looks at before anything else: 0 there means that no bell rings, and that nothing
 * is to be said. It is the one keeper's count of bells; left_out_port while no keeper is known, and
 * never 0 where several have to be looked at. */
OWN extern const uint32_t *stirring;

/* Outside of aside_begin() too. NULL: not known (any more). */
static inline struct synergy_page *keeper_page(int keeper) {
    return __atomic_load_n(&keeper_pages[keeper], __ATOMIC_ACQUIRE);
}

/* Outside of aside_begin() too. */
static inline int knows_keepers(void) {
    return keeper_page(0) != NULL;
}

/* What a socket is told apart by. */
struct identity {
    uint64_t cookie;
    uint64_t network;
    uid_t owner;
};

/* False and errno. */
int identify(int fd, struct identity *identity);

/* The one that has not ended, and punches for such sockets; NO_KEEPER. */
int known_keeper(const struct identity *identity);

/* The same, started if there is none yet, or another server's that has ended a moment ago, where
 * `bound` is bound to the same `tcp_port` (0: none); NO_KEEPER: nothing is to be had (said once).
 */
int needed_keeper(const struct identity *identity, enum cause cause, int bound, uint16_t tcp_port);

/* One that keeps nothing yet, and will suit whoever makes the first socket, started if there is
 * none. */
void have_free_keeper(void);

/* Whoever keeps the socket already, found by its cookie; NO_KEEPER. The answer tells what the
 * socket is to it. */
int met_keeper(int fd, const struct identity *identity, struct synergy_answer *answer);

/* Asks who keeps a socket on this port: 0 and the answer, or an
 * errno of the way there. */
int ask_who_has_port(int transport, uint16_t port, struct synergy_request *request, int pass,
                     struct synergy_answer *answer);

/* 0 and the answer, or an errno of the way there. `pass`: a descriptor that goes along, or -1. A
 * keeper that is not there any more is replaced, unless it was to be asked about what it had itself
 * (CLOSED, GIVE_WAY). */
int ask_keeper(int keeper, struct synergy_request *request, int pass,
               struct synergy_answer *answer);

/* FETCH: the same, with a bell, and `received` takes what comes back. Where only the bell's number
 * is left for that, the bell is closed, and -1 then. EMFILE: there is none for the question. */
int fetch_from_keeper(int keeper, struct synergy_request *request, int *bell,
                      struct synergy_answer *answer, int *received);

/* The same of the keeper that is found by the listener alone. */
int fetch_from_who_keeps(int listener, struct synergy_request *request, int *bell,
                         struct synergy_answer *answer, int *received);

/* accept() has no descriptor left for a connection, or for fetching it: the keeper waits. */
static inline void say_starved(int keeper) {
    __atomic_add_fetch(&keeper_page(keeper)->starved, 1, __ATOMIC_RELEASE);
}

/* Where this process's stderr is /dev/null, as daemons leave it, the keepers are to say elsewhere
 * what they have to say. */
void note_stderr(void);

/* This process is about to end, by exit(). */
void note_leaving(void);

/* Every keeper is told of this process (0), or of its child. */
void keepers_hear_of(pid_t child);

/* One keeper has ended although it has sockets of this process's: another one takes its place, and
 * all its sockets. */
void replace_keeper(int keeper);
