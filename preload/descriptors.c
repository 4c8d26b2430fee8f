#include "descriptors.h"

#include <sys/mman.h>

/* Written by whichever thread makes a call on that number. */
uint64_t first_descriptors[PIECE];
uint64_t *descriptor_pieces[PIECES];

int last_descriptor = PIECE - 1;

static uint64_t packed(struct descriptor descriptor) {
    return descriptor.cookie << COOKIE_SHIFT | (uint64_t)descriptor.hidden << HIDDEN_SHIFT |
           (uint64_t)descriptor.keeper << MARK_BITS | descriptor.mark;
}

/* NULL: there is none beyond all numbers, or no memory. */
static uint64_t *made_entry(int fd) {
    uint64_t *entry = descriptor_entry(fd);
    if (entry || (unsigned)fd >= DESCRIPTORS)
        return entry;
    enum { SIZE = PIECE * sizeof *entry };
    uint64_t *none = NULL,
             *piece = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (piece == MAP_FAILED)
        return NULL;
    if (!__atomic_compare_exchange_n(&descriptor_pieces[fd / PIECE], &none, piece, 0,
                                     __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        munmap(piece, SIZE); /* another thread was first */
    return descriptor_entry(fd);
}

static void note_last(int fd) {
    int known = __atomic_load_n(&last_descriptor, __ATOMIC_RELAXED);
    while (fd > known && !__atomic_compare_exchange_n(&last_descriptor, &known, fd, 1,
                                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

void set_descriptor(int fd, struct descriptor descriptor) {
    uint64_t *entry = made_entry(fd);
    if (!entry)
        return;
    /* (Cookies are counted from 1, a few thousand at a time for each processor.) */
    if (descriptor.cookie > UINT64_MAX >> COOKIE_SHIFT)
        descriptor = (struct descriptor){.mark = SYNERGY_UNKNOWN};
    note_last(fd);
    __atomic_store_n(entry, packed(descriptor), __ATOMIC_RELAXED);
}

void set_mark(int fd, enum synergy_mark mark) {
    set_descriptor(fd, (struct descriptor){.mark = mark});
}

struct descriptor forget_descriptor(int fd) {
    uint64_t *entry = descriptor_entry(fd);
    return unpacked_descriptor(
        entry ? __atomic_exchange_n(entry, (uint64_t)SYNERGY_UNKNOWN, __ATOMIC_RELAXED)
              : (uint64_t)SYNERGY_UNKNOWN);
}
