/*
 * What is known of the server's descriptors, by number, so that a call on an ordinary one costs one
 * load. A number that changes hands unseen keeps a stale entry, which costs a question to the
 * keeper or leaves a socket to its next bind(), never more: what is ours is known by the socket's
 * cookie (SO_COOKIE), which no other socket ever has.
 */
#pragma once

#include "own.h"
#include "wire.h"

#include <stddef.h>

/* As many as a process can have (sysctl fs.nr_open) unless somebody raises that: the first few
 * stand here, the others in pieces of one page, each made when it is needed. */
enum { DESCRIPTORS = 1 << 20, PIECE = 512, PIECES = DESCRIPTORS / PIECE };

struct descriptor {
    enum synergy_mark mark;
    unsigned keeper; /* whose: its number in keepers.h */
    unsigned hidden; /* options that are set for our sake: the server has not */
    uint64_t cookie;
};

enum hidden_option { HIDDEN_REUSEADDR = 1, HIDDEN_REUSEPORT = 2 };

/* An entry in one word: mark, keeper, hidden options, and a cookie that fits. */
enum { MARK_BITS = 2, MARKS = (1 << MARK_BITS) - 1, KEEPER_BITS = 3, HIDDEN_BITS = 2 };
enum { HIDDEN_SHIFT = MARK_BITS + KEEPER_BITS, COOKIE_SHIFT = HIDDEN_SHIFT + HIDDEN_BITS };
#define HIDDEN_OPTIONS (((1ULL << HIDDEN_BITS) - 1) << HIDDEN_SHIFT)

OWN extern uint64_t first_descriptors[PIECE];
OWN extern uint64_t *descriptor_pieces[PIECES];

/* No entry beyond it is known. It only grows, from the last of the first few on. */
OWN extern int last_descriptor;

/* NULL: nothing is noted of it. */
static inline uint64_t *descriptor_entry(int fd) {
    if (__builtin_expect((unsigned)fd < PIECE, 1))
        return &first_descriptors[fd];
    if ((unsigned)fd >= DESCRIPTORS)
        return NULL;
    uint64_t *piece = __atomic_load_n(&descriptor_pieces[fd / PIECE], __ATOMIC_ACQUIRE);
    return piece ? &piece[fd % PIECE] : NULL;
}

static inline uint64_t descriptor_word(int fd) {
    if (__builtin_expect((unsigned)fd < PIECE, 1))
        return __atomic_load_n(&first_descriptors[fd], __ATOMIC_RELAXED);
    const uint64_t *entry = descriptor_entry(fd);
    return entry    ? __atomic_load_n(entry, __ATOMIC_RELAXED)
           : fd < 0 ? (uint64_t)SYNERGY_UNTOUCHED
                    : (uint64_t)SYNERGY_UNKNOWN;
}

static inline enum synergy_mark mark_of(int fd) {
    return (enum synergy_mark)(descriptor_word(fd) & MARKS);
}

static inline int is_ours(enum synergy_mark mark) {
    return mark >= SYNERGY_LISTENER;
}

static inline struct descriptor unpacked_descriptor(uint64_t word) {
    struct descriptor descriptor = {
        .mark = (enum synergy_mark)(word & MARKS),
        .keeper = (unsigned)(word >> MARK_BITS) & ((1U << KEEPER_BITS) - 1),
        .hidden = (unsigned)(word >> HIDDEN_SHIFT) & ((1U << HIDDEN_BITS) - 1),
        .cookie = word >> COOKIE_SHIFT,
    };
    return descriptor;
}

static inline struct descriptor descriptor_of(int fd) {
    return unpacked_descriptor(descriptor_word(fd));
}

/* Whether a keeper knows of it: it is ours, or will be when it listens. */
static inline int is_kept(struct descriptor descriptor) {
    return is_ours(descriptor.mark) ||
           (descriptor.mark == SYNERGY_UNKNOWN && descriptor.cookie != 0);
}

void set_descriptor(int fd, struct descriptor descriptor);
void set_mark(int fd, enum synergy_mark mark);

/* Makes the entry unknown, and gives what it was. */
struct descriptor forget_descriptor(int fd);

/* The two that each connection of a server's costs, without a locked instruction: what a number
 * stands for changes under a call on it only where the server's threads don't know what they do. */
static inline void note_connection(int fd, uint64_t word) {
    if (__builtin_expect((unsigned)fd < PIECE, 1))
        __atomic_store_n(&first_descriptors[fd], word, __ATOMIC_RELAXED);
    else
        set_descriptor(fd, unpacked_descriptor(word));
}

/* The word of a connection, which has the options of its listener, whose word this is. */
static inline uint64_t noted_at(uint64_t listener) {
    return SYNERGY_UNTOUCHED | (listener & HIDDEN_OPTIONS);
}

/* The server has set these itself. */
static inline void show_options(int fd, unsigned options) {
    uint64_t *entry = descriptor_entry(fd), shown = (uint64_t)options << HIDDEN_SHIFT;
    if (entry && (__atomic_load_n(entry, __ATOMIC_RELAXED) & shown))
        __atomic_fetch_and(entry, ~shown, __ATOMIC_RELAXED);
}

static inline void forget_untouched(int fd) {
    uint64_t *entry = descriptor_entry(fd);
    if (entry)
        __atomic_store_n(entry, (uint64_t)SYNERGY_UNKNOWN, __ATOMIC_RELAXED);
}
