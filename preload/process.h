/*
 * Whose memory this is. A child by fork() has a copy of what the library knows, and is a process of
 * the server like its parent. A child by vfork() or clone(CLONE_VM) writes into its parent's
 * memory, but its descriptors are others: what it does is not to be noted there.
 */
#pragma once

#include <stddef.h>

/* Whether what is known here is this process's own. False in a child by vfork(). A child by a fork
 * that no hook saw is noticed here, and its keepers are told (keepers_hear_of()). */
int process_is_own(void);

/* In the child of a fork that was seen. */
void process_has_forked(void);

/* Memory for `size` bytes that stays as it is in children, which begins what is known of the
 * process; NULL: there is none. */
void *process_begin(size_t size);

/* One thread at a time starts a keeper. False after two seconds. Within aside_begin() only. */
int starting_begin(void);
void starting_end(void);
