/*
 * What stands in the way of a bind(), listen() or connect(), or would if the ports were not shared
 * with the keeper. Within aside_begin() only.
 */
#pragma once

#include <sys/socket.h>

/* bind() is about to be called. Which of the socket's options (enum hidden_option) would have the
 * kernel, who takes our SO_REUSEPORT for the server's, let it in beside a socket of the server's
 * that shares its address with nobody. */
unsigned options_that_get_by(int fd, const struct sockaddr *address, socklen_t length);

/* bind() without these: what the kernel says then it says without us. Sets errno as bind() does. */
int bind_without(unsigned options, int fd, const struct sockaddr *address, socklen_t length);

/* The same two of listen(), by which the kernel looks at the port once more: sockets that let
 * others in are bound side by side, and one of them alone can listen. */
unsigned options_that_get_by_listening(int fd);
int listen_without(unsigned options, int fd, int backlog);

/* bind() found its address in use: what the last call says, after those that stood in the way for
 * us have gone. Sets errno as bind() does. */
int bind_again(int fd, const struct sockaddr *address, socklen_t length);

/* connect() found its ends in use. Whether a punch had them, and has given them up. */
int are_ends_given_up(int fd, const struct sockaddr *address, socklen_t length);

/* Whether a socket like `fd` could be bound there with SO_REUSEADDR: one is, for a moment. (Not
 * with SO_REUSEPORT: where one socket has got by with that, the kernel looks no closer at the next
 * one that has it, and lets it in beside sockets that have not. One that is bound without ends
 * that: inet_csk_update_fastreuse().) */
int is_free_for_who_lets_others_in(int fd, const struct sockaddr *address, socklen_t length);
