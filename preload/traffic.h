/*
 * Which peers a UDP socket hears, and to whom it sends: noted in the page for the keeper, which
 * renews no hole that the server's own datagrams renew. Everything here is to be called after
 * libc's call has succeeded.
 */
#pragma once

#include "wire.h"

#include <sys/socket.h>

/* The server has sent to this address. */
void note_sent(int fd, const struct sockaddr *address, socklen_t length);

/* It has received, and gave room for the sender's address there: how much is not known any more. */
void note_received(int fd, const struct sockaddr *address);

/* A call on it has failed with EHOSTUNREACH: whether that can be the error of a punch, which dies
 * on its way and not at its end, and which the kernel gives to the socket that has the port. A
 * server sees it that asks for errors (IP_RECVERR). */
int is_perhaps_punchs(int fd);

/* What came from the error queue (MSG_ERRQUEUE) is a punch: it is empty, and its hop limit was
 * exceeded. */
int is_punchs(struct msghdr *message, ssize_t size);
