/*
 * A listener that SYNERGY_PORTS leaves out, and which is the only one: then the user is told.
 * Within aside_begin() only.
 */
#pragma once

#include "own.h"

#include <stdint.h>
#include <sys/socket.h>

/* The port of a listener that SYNERGY_PORTS leaves out, while nothing has been opened; 0: none. */
OWN extern uint32_t left_out_port;

/* bind() has succeeded, at such a port. Nothing is asked of the kernel, which such a server must
 * not feel. */
void leave_out(int fd, const struct sockaddr *address, uint16_t port);

/* listen() has succeeded on a socket that is not ours. */
void left_out_listens(int fd);

/* Says so, once, if the process has opened nothing else by then. */
void say_left_out_port(void);
