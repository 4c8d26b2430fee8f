#include "descriptors.h"

#include <limits.h>

/* Written by whichever thread makes a call on that number. */
uint64_t descriptor_table[DESCRIPTORS];

static int last = -1;

static struct descriptor unpacked(uint64_t word) {
    struct descriptor descriptor = {
        .mark = (enum synergy_mark)(word & ((1U << MARK_BITS) - 1)),
        .keeper = (unsigned)(word >> MARK_BITS) & ((1U << KEEPER_BITS) - 1),
        .cookie = word >> COOKIE_SHIFT,
    };
    return descriptor;
}

static uint64_t packed(struct descriptor descriptor) {
    return descriptor.cookie << COOKIE_SHIFT | (uint64_t)descriptor.keeper << MARK_BITS |
           descriptor.mark;
}

struct descriptor descriptor_of(int fd) {
    if ((unsigned)fd >= DESCRIPTORS)
        return unpacked(mark_of(fd));
    return unpacked(__atomic_load_n(&descriptor_table[fd], __ATOMIC_RELAXED));
}

static void note_last(int fd) {
    int known = __atomic_load_n(&last, __ATOMIC_RELAXED);
    while (fd > known &&
           !__atomic_compare_exchange_n(&last, &known, fd, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

void set_descriptor(int fd, struct descriptor descriptor) {
    if ((unsigned)fd >= DESCRIPTORS)
        return;
    /* (Cookies are counted from 1, a few thousand at a time for each processor.) */
    if (descriptor.cookie > UINT64_MAX >> COOKIE_SHIFT)
        descriptor = (struct descriptor){.mark = SYNERGY_UNKNOWN};
    note_last(fd);
    __atomic_store_n(&descriptor_table[fd], packed(descriptor), __ATOMIC_RELAXED);
}

void set_mark(int fd, enum synergy_mark mark) {
    set_descriptor(fd, (struct descriptor){.mark = mark});
}

struct descriptor forget_descriptor(int fd) {
    if ((unsigned)fd >= DESCRIPTORS)
        return unpacked(SYNERGY_UNKNOWN);
    return unpacked(__atomic_exchange_n(&descriptor_table[fd], 0, __ATOMIC_RELAXED));
}

int last_descriptor(void) {
    return __atomic_load_n(&last, __ATOMIC_RELAXED);
}
