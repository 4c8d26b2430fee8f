/*
 * Which of the server's sockets concern us, and what the keeper is told of them. Everything here is
 * to be called within aside_begin() only.
 */
#pragma once

#include "descriptors.h"
#include "own.h"

#include <stdint.h>
#include <sys/socket.h>

/* A socket for datagrams asks for errors (IP_RECVERR) from now on, or no more. */
void socket_asks_for_errors(int fd);

/* listen() is about to be called. What comes back is for the one of the two that is called next. */
struct preparation {
    int keeper;      /* NO_KEEPER: nothing was done */
    unsigned hidden; /* enum hidden_option: what the server has not set itself */
    int connection;  /* by which the keeper waits to be told that it listens; -1: there is none */
    uint64_t cookie;
};
struct preparation socket_will_listen(int fd);
void socket_listens_as_prepared(int fd, const struct preparation *preparation);
void socket_does_not_listen(int fd, const struct preparation *preparation);
/* The same, long before it is called. */
void socket_may_listen(int fd);

/* listen() and bind() have succeeded. */
void socket_listens(int fd);
void socket_is_bound(int fd, const struct sockaddr *address, socklen_t length);

/* setsockopt() has given it a key (TCP_MD5SIG, TCP_MD5SIG_EXT). */
void socket_has_key(int fd, int option, const void *key, socklen_t length);

/* A descriptor of which nothing is known is used as a server's would be: it may have come from the
 * process that forked or executed this one, from systemd or inetd, or over a Unix socket. */
enum encounter { ACCEPTS, RECEIVES, FOUND };
enum synergy_mark socket_is_met(int fd, enum encounter encounter);

/* Meets all that was left to this process. */
void take_stock(void);

/* What the entry was made for is closed, or takes no more peers. */
void socket_is_closed(const struct descriptor *descriptor);
/* The same of a listener that was shut down, and is there still. */
void socket_is_shut_down(int fd);

/* The same of one that connect() may have taken its port or its queue from (AF_UNSPEC), or
 * shutdown() by another number. */
void socket_may_be_disconnected(int fd);

/* connect() with AF_UNSPEC has succeeded. */
void socket_is_disconnected(int fd);

/* The server has set the option (enum hidden_option) itself. */
void option_is_set(int fd, unsigned option);
/* Whether the option is set for our sake alone. */
int is_option_hidden(int fd, unsigned option);

/* These numbers, `last` included, stand for nothing now. */
void sockets_are_closed(unsigned first, unsigned last);

/* synergy_to(): 0, or an errno. */
int open_toward(int fd, const union synergy_endpoint *peer, int hop_limit);

/* Another keeper has this number now, and gets all its sockets; or nobody has it, and they are met
 * again. */
void hand_over_again(int keeper);
