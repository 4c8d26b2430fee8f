/*
 * How a keeper comes about: a grandchild by two vforks, which no wait() of the server's sees and of
 * which no zombie stays, and which gets nothing of the server's but what is named here.
 */
#pragma once

/* Where this library lies, as the loader says it: the keeper is found from there. */
void library_lies_at(const char *path);

/* Finds the places where the keeper may be, before the server can change its directory. */
void find_keeper(void);

/* Starts one. Gives the connection to it, on which its first answer (struct synergy_answer, the
 * page beside it) is to be awaited; -1 and errno. `is_asked`: by synergy_to(). `why` is what could
 * not be done, for a line. Within aside_begin() and starting_begin() only. */
int start_keeper(int is_asked, const char **why);

/* Runs it where the limit of open files is higher, if it can be raised: in a child that shares the
 * memory and the descriptors, so that no other thread sees another limit. Within aside_begin() and
 * starting_begin() only. */
void run_beyond_limit(void (*what)(void *argument), void *argument);
