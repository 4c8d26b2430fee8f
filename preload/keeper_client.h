/*
 * How keepers are asked. Everything here is to be called within aside_begin() only.
 */
#pragma once

#include "keepers.h"

/* Asks who keeps a socket on this port: 0 and the answer, or an errno of the way there. */
int ask_who_has_port(int transport, uint16_t port, struct synergy_request *request, int pass,
                     struct synergy_answer *answer);

/* 0 and the answer, or an errno of the way there. `pass`: a descriptor that goes along, or -1. A
 * keeper that is not there any more is replaced, unless it was to be asked about what it had itself
 * (CLOSED, GIVE_WAY). */
int ask_keeper(int keeper, struct synergy_request *request, int pass,
               struct synergy_answer *answer);

/* The same, and where there is an answer the connection stays, for tell_keeper(). Else -1. */
int ask_keeper_first(int keeper, struct synergy_request *request, int pass,
                     struct synergy_answer *answer, int *connection);
/* Says something by it that is not answered, and closes it. 0, or an errno. */
int tell_keeper(int keeper, int connection, struct synergy_request *request);

/* FETCH: the same, with a bell, and `received` takes what comes back. Where only the bell's number
 * is left for that, the bell is closed, and -1 then. EMFILE: there is none for the question. */
int fetch_from_keeper(int keeper, struct synergy_request *request, int *bell,
                      struct synergy_answer *answer, int *received);

/* The same of the keeper that is found by this name, of which a listener of this user's may be:
 * ECONNREFUSED where it is a stranger's. */
int fetch_from(const struct synergy_address *name, uid_t owner, struct synergy_request *request,
               int *bell, struct synergy_answer *answer, int *received);

/* Every keeper is told of this process (0), or of its child. */
void keepers_hear_of(pid_t child);
