/* The accepting end of a bell: a connection from this host that stands for a peer's (wire.h says
 * what it is known by). */
#pragma once

#include "wire.h"

#include <sys/socket.h>

enum accepted {
    ORDINARY, /* nothing of ours: leave it */
    REPLACED, /* the descriptor is the peer's connection now, and so is the address */
    NO_ONE,   /* it was a bell, has been closed, and there is no connection: accept again */
};

/* Where the caller of accept() wants the address, and how much room there is: what *length said
 * before the call, which says something else afterwards. */
struct caller_address {
    struct sockaddr *address;
    socklen_t *length;
    socklen_t room;
};

/* Where the caller does not know from where `fd` comes. Keeps errno. */
int asks_where_from(int fd);

/* Family and port, which are at the same place in the addresses of both families. */
enum { LEAST_ROOM = sizeof(sa_family_t) + sizeof(in_port_t) };

/* Of a connection by so much of the address that the kernel gives for it. */
static inline int is_from_bell_port(const void *address) {
    in_port_t port;
    memcpy(&port, (const char *)address + sizeof(sa_family_t), sizeof port);
    return synergy_is_bell_port(ntohs(port));
}

/* What accept() at `listener` has given as `fd`, where the port may be a bell's: another number
 * where no more were left. Within aside_begin() only. */
enum accepted answer_bell(int listener, int *fd, int flags, const struct caller_address *caller);

/* The same by who may not ask for what the bell stands for: it goes, and says why. Changes errno.
 */
enum accepted turn_bell_away(int listener, int fd, int error);

/* Whether it is a connection that has come in a bell's place. (Another number for it is not known.)
 */
int is_punched(int fd);

/* Where this host tracks connections, its tracker has seen a punch go to the peer, and not the peer
 * come: SO_ORIGINAL_DST says the peer's address. Puts there whom the peer has called. */
void show_own_address(int fd, int level, void *value, const socklen_t *length);
