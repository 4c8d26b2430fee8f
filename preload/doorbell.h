/* The accepting end of a bell: a connection from this host that stands for a peer's. */
#pragma once

#include "wire.h"

#include <sys/socket.h>

enum accepted {
    ORDINARY, /* nothing of ours: leave it */
    REPLACED, /* the descriptor is the peer's connection now, and so is the address */
    NO_ONE,   /* it was ours, has been closed, and there is no connection: accept again */
};

/* Where the caller of accept() wants the address, and how much room there is: what *length said
 * before the call, which says something else afterwards. */
struct caller_address {
    struct sockaddr *address;
    socklen_t *length;
    socklen_t room;
};

/* What accept() has given as `fd` where the keeper says that bells ring. Within aside_begin() only.
 */
enum accepted answer_bell(int keeper, int fd, int flags, const struct caller_address *caller);

/* Whether it is a connection that has come in a bell's place. (Another number for it is not known.)
 */
int is_punched(int fd);

/* Where this host tracks connections, its tracker has seen a punch go to the peer, and not the peer
 * come: SO_ORIGINAL_DST says the peer's address. Puts there whom the peer has called. */
void show_own_address(int fd, int level, void *value, socklen_t *length);
