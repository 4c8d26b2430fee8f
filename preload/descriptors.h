/*
 * What is known of the server's descriptors, by number, so that a call on an ordinary one costs one
 * load. A number that changes hands unseen keeps a stale entry, which costs a question to the
 * keeper or leaves a socket to its next bind(), never more: what is ours is known by the socket's
 * cookie (SO_COOKIE), which no other socket ever has.
 */
#pragma once

#include "wire.h"

enum { DESCRIPTORS = 1 << 16 };

struct descriptor {
    enum synergy_mark mark;
    unsigned keeper; /* whose: its number in keeper_client.h */
    uint64_t cookie;
};

/* An entry in one word: mark, keeper, and a cookie that fits. */
enum { MARK_BITS = 2, KEEPER_BITS = 3, COOKIE_SHIFT = MARK_BITS + KEEPER_BITS };

extern uint64_t descriptor_table[DESCRIPTORS];

/* Beyond the table every number is unknown. */
static inline enum synergy_mark mark_of(int fd) {
    if ((unsigned)fd >= DESCRIPTORS)
        return fd < 0 ? SYNERGY_UNTOUCHED : SYNERGY_UNKNOWN;
    return (enum synergy_mark)(__atomic_load_n(&descriptor_table[fd], __ATOMIC_RELAXED) &
                               ((1U << MARK_BITS) - 1));
}

static inline int is_ours(enum synergy_mark mark) {
    return mark >= SYNERGY_LISTENER;
}

static inline struct descriptor unpacked_descriptor(uint64_t word) {
    struct descriptor descriptor = {
        .mark = (enum synergy_mark)(word & ((1U << MARK_BITS) - 1)),
        .keeper = (unsigned)(word >> MARK_BITS) & ((1U << KEEPER_BITS) - 1),
        .cookie = word >> COOKIE_SHIFT,
    };
    return descriptor;
}

static inline struct descriptor descriptor_of(int fd) {
    return unpacked_descriptor((unsigned)fd < DESCRIPTORS
                                   ? __atomic_load_n(&descriptor_table[fd], __ATOMIC_RELAXED)
                                   : (uint64_t)mark_of(fd));
}

void set_descriptor(int fd, struct descriptor descriptor);
void set_mark(int fd, enum synergy_mark mark);

/* Makes the entry unknown, and gives what it was. */
struct descriptor forget_descriptor(int fd);

/* No entry beyond it is known. They only grow. */
int last_descriptor(void);
