/*
 * What the kernel says of a socket, and the two options by which others may be bound beside it.
 * Within aside_begin() only.
 */
#pragma once

#include "wire.h"

#include <stdint.h>
#include <sys/socket.h>

/* 0 where there is none. Changes errno. */
uint64_t cookie_of(int fd);

enum transport { TCP = SYNERGY_TCP, UDP = SYNERGY_UDP, SCTP = SYNERGY_SCTP, NEITHER = -1 };

/* NEITHER and errno, which is 0 for a socket of another kind. */
enum transport transport_of(int fd);
int is_one_to_many(int fd, enum transport transport);
int is_connected(int fd);

/* IP_RECVERR, or IPV6's. */
int asks_for_errors(int fd);

/* 0 where it has none, or is of another family. */
uint16_t port_of(int fd);
/* Of an address of one of the two families. */
uint16_t port_in(const struct sockaddr *address);

/* Of SOL_SOCKET. -1: the kernel does not say. */
int option_of(int fd, int name);
void set_option(int fd, int name, int value);

/* So that the keeper's sockets may be bound beside it (socket(7)). */
void admit_others(int fd);
