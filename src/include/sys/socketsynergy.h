/*
 * The socket call of SocketSynergy: opens a hole for one peer in the firewalls on this side of the
 * path. Link with -lsynergy (pkg-config synergy), or preload libsynergy.so.
 */
#ifndef SYS_SOCKETSYNERGY_H
#define SYS_SOCKETSYNERGY_H

#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A hop limit for when nothing is known of the path: past most local firewalls, short of most
 * remote ones. */
#define SYNERGY_HOPLIMIT_GUESS 3

/* clang-format off: the list of errors is one */
/*
 * Opens a hole between a socket and a peer, by a packet that dies after `hoplimit` hops, and keeps
 * it open until the socket is closed. No packet of it travels further than that.
 *
 *   UDP   after bind(). An unbound socket is bound as by its first datagram.
 *   TCP   after listen(): connections of the peer's come out of accept(). Before listen(): the hole
 *         is opened by listen(). Before connect(): nothing is sent, since connect() opens the hole
 *         itself; it may be called, so that both sides can do the same.
 *   SCTP  one-to-one sockets as TCP. One-to-many sockets: before or after listen(), which opens the
 *         hole; associations of the peer's come about by themselves.
 *
 * Repeated calls add peers, or renew the hole of the same peer. Without a peer (NULL) it is the one
 * that the socket is connected to.
 *
 * synergy() takes IPv6 peers, v4-mapped ones included; synergy_to() takes every address family, and
 * hoplimit -1 for a hop limit that is chosen automatically.
 *
 * Return 0, or -1 and errno:
 *   EBADF           sockfd is not an open descriptor
 *   ENOTSOCK        sockfd is not a socket
 *   EOPNOTSUPP      the socket is of another transport than TCP, UDP and SCTP
 *   EAFNOSUPPORT    the address of the peer, or of the socket, is neither IPv6 nor IPv4, or the
 *                   socket can't reach a peer of that family
 *   EINVAL          the hop limit is not 1 to 254 (or -1), the peer has port 0 or a length that
 *                   is too short, or the socket is bound to a loopback address
 *   ENOTCONN        there is no peer: NULL, and the socket is not connected
 *   EISCONN         the TCP or SCTP socket is connected, to another peer
 *   ENOENT          no connection of the peer's could be handed over to the socket: the log says
 *                   why
 *   EADDRINUSE      the port is another user's, so that no second socket may be bound beside it
 *   ENOSPC          more peers than one socket can have, or too many sockets that are yet to listen
 *   ELIBACC         no synergy-keeper could be had: the log says why; or this is a child by vfork()
 *   EPERM           a system call filter of the program's own does not let the keeper be asked
 *   EAGAIN, EMFILE, ENOMEM, ENETUNREACH, ...
 *                   the punch could not be sent; it is tried again while the socket is there
 */
int synergy(int sockfd, uint8_t hoplimit, struct sockaddr_in6 *symcli);
int synergy_to(int sockfd, const struct sockaddr *peer, socklen_t len, int hoplimit);
/* clang-format on */

#ifdef __cplusplus
}
#endif

#endif
