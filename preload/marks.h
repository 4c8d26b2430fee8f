/*
 * What is known of the server's descriptors, by number, so that a call on an ordinary one costs one
 * load. A number that changes hands unseen keeps a stale mark, which costs a question to the kernel
 * or leaves a socket to its next bind(), never more.
 */
#pragma once

#include "keeper/engine_table.h"

/* SYNERGY_UNKNOWN for a number beyond the table, SYNERGY_UNTOUCHED for none at all. */
enum synergy_mark mark_of(int fd);
void set_mark(int fd, enum synergy_mark mark);

/* Makes them SYNERGY_UNKNOWN, `last` included. 1 if any was watched. */
int forget_marks(unsigned int first, unsigned int last);

/* No mark above it is SYNERGY_INHERITED; -1 where none is. */
int last_inherited(void);

/* To be called in the child of a fork: its engine has not begun. */
void inherit_marks(void);
