/*
 * The keepers that this process knows, by their pages, and how it comes to know them. Most
 * processes know one; sockets of another owner or network namespace, and those that another server
 * left, have another.
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

/* A listener is about to listen at the port, and will be this keeper's: another one, whose listener
 * there was closed or whose server has ended, may keep holes for the next, which are in the way. */
void have_others_give_way(int keeper, int transport, uint16_t port);

/* Whether this process is in that network namespace (SO_NETNS_COOKIE); 0: the kernel has none. */
int is_in_network(uint64_t network);

/* Of those that are known here, the one that has not ended and punches for such sockets; NO_KEEPER.
 * Nobody is asked. */
int look_up_keeper(const struct identity *identity);

/* The same; where none is known, one is adopted, of a server that has ended a moment ago at the
 * `tcp_port` (0: none) that `bound` is bound to, or else started, which waits until it is ready.
 * NO_KEEPER: none is to be had (said once). */
int obtain_keeper(const struct identity *identity, enum cause cause, int bound, uint16_t tcp_port);

/* Starts a keeper that keeps nothing yet, and will suit whoever makes the first socket, unless
 * there is one. */
void obtain_free_keeper(void);

/* Asks for the keeper that has the socket already, by its cookie, and takes its page up; NO_KEEPER:
 * none has. The answer tells what the socket is to it. */
int find_keeper_of(int fd, const struct identity *identity, struct synergy_answer *answer);

/* Tells the keeper that accept() has no descriptor left for a connection, or for fetching it: it
 * waits then. */
static inline void tell_starved(int keeper) {
    __atomic_add_fetch(&keeper_page(keeper)->starved, 1, __ATOMIC_RELEASE);
}

/* A system call filter that this process has set is known of: each of them the keepers see in
 * /proc.
 */
static inline void tell_filter_is_known(void) {
    for (int i = 0; i < KEEPERS && keeper_page(i); i++)
        __atomic_add_fetch(&keeper_page(i)->filters, 1, __ATOMIC_RELEASE);
}

/* Where this process's stderr is /dev/null, as daemons leave it, the keepers are to say elsewhere
 * what they have to say. */
void note_stderr(void);

/* This process is about to end, by exit(). */
void note_leaving(void);

/* One keeper has ended although it has sockets of this process's: another one takes its place, and
 * all its sockets. */
void replace_keeper(int keeper);

/* Why nothing is punched, in a line; for each reason once, in the life of the process. `error`: 0,
 * or an errno that says more. */
void complain(const char *what, int error);
#define COMPLAIN_ONCE(what, error)                                                                 \
    do {                                                                                           \
        static int is_said;                                                                        \
        if (!__atomic_exchange_n(&is_said, 1, __ATOMIC_RELAXED))                                   \
            complain(what, error);                                                                 \
    } while (0)
