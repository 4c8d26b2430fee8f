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
