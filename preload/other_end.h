/* Whose the other end of a TCP connection is, where both are this host's. */
#pragma once

#include <sys/types.h>

/* The kernel is asked, who tells everybody. False where it does not say: the other end is closed,
 * or no such question is allowed. Within aside_begin() only. */
int user_at_other_end(int fd, uid_t *user);
