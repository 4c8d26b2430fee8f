/* The descriptors that this process has, whoever opened them. */
#pragma once

/* Within aside_begin() only. */
void for_each_descriptor(void (*visit)(int fd));
