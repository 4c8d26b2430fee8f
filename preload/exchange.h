/*
 * One request and one answer over a Unix socket, and whom they are exchanged with. To be called
 * within aside_begin() only.
 */
#pragma once

#include "wire.h"

#include <sys/types.h>

/* Whoever sits at the other end of a Unix socket. */
struct owner {
    pid_t process;
    uid_t user;
    gid_t group;
};

/* Whether a keeper is `owner`'s, ours or root's: nobody else's page is to be looked into, and
 * nobody else's connections to be had. */
int is_trusted(const struct owner *keeper, uid_t owner);

/* No answer is waited for any longer than two seconds. */
void be_patient(int connection);

/* Nor than so many milliseconds. */
void wait_for_answer(int connection, unsigned milliseconds);

/* What is known of an address. A name that is made of a socket's cookie or port can be foretold: a
 * stranger may have it, and let those wait that connect there. */
enum whose { KEEPERS_OWN, PERHAPS_STRANGERS };

/* -1 and errno. */
int connect_to(const struct synergy_address *address, enum whose whose, struct owner *owner);

/* `pass`: a descriptor that goes along, or -1. The connection is used up. 0, or an errno. */
int send_request(int connection, struct synergy_request *request, int pass);

/* 0, or an errno: EPIPE where the other end is gone. `received` takes the descriptor that came
 * along, or -1; NULL: none is expected. */
int receive_answer(int connection, struct synergy_answer *answer, int *received);

/* The same, and what comes along gets `bell`'s number if there is no other: that is closed, and -1
 * then. */
int receive_fetched(int connection, int *bell, struct synergy_answer *answer, int *received);

/* Both. Without `answer` none is awaited. */
int send_and_receive(int connection, struct synergy_request *request, int pass,
                     struct synergy_answer *answer, int *received);

/* The same with the keeper of this name, which can be foretold, if that is to be trusted. */
int ask_keeper_at(const struct synergy_address *address, uid_t owner,
                  struct synergy_request *request, int pass, struct synergy_answer *answer,
                  int *received);
