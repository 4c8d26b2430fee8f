/*
 * Before another user or another program takes this process's place, with its sockets. Within
 * aside_begin() only.
 */
#pragma once

/* A keeper is started if there are sockets that may be bound after the server has changed its user:
 * then it will not be the one who made them, who alone can bind beside them. */
void be_ready_for_another_user(void);

/* Another program takes this process's place, or a child's: the keeper says so where that will have
 * a listener and not the library, so that connections would be given to nobody. (Words may give
 * it the library: env(1)'s do.) */
void program_is_executed(char *const words[], char *const environment[]);
