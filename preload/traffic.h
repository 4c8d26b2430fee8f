/*
 * Which peers a UDP socket hears, and to whom it sends: noted in the page for the keeper, which
 * renews no hole that the server's own datagrams renew. Everything here is to be called after
 * libc's call has succeeded.
 */
#pragma once

#include "wire.h"

#include <sys/socket.h>

/* `address` is what the kernel has written, or read: the first byte of it is there, but how much
 * room the caller had is not known any more. */
void note_traffic(enum synergy_way way, int fd, const struct sockaddr *address);
