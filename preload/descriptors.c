#include "descriptors.h"

#include <limits.h>

/* Written by whichever thread makes a call on that number. */
uint64_t descriptor_table[DESCRIPTORS];

static int last = -1;

static uint64_t packed(struct descriptor descriptor) {
    return descriptor.cookie << COOKIE_SHIFT | (uint64_t)descriptor.keeper << MARK_BITS |
           descriptor.mark;
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
        return unpacked_descriptor(SYNERGY_UNKNOWN);
    return unpacked_descriptor(__atomic_exchange_n(&descriptor_table[fd], 0, __ATOMIC_RELAXED));
}

int last_descriptor(void) {
    return __atomic_load_n(&last, __ATOMIC_RELAXED);
}
