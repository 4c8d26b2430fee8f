#include "marks.h"

#include <stdatomic.h>

enum { MARKED_DESCRIPTORS = 1 << 16 };

/* Written by whichever thread makes a call on that number. */
static _Atomic(unsigned char) marks[MARKED_DESCRIPTORS];

/* No mark above them is WATCHED, or INHERITED. They only grow. */
static _Atomic(int) highest_watched = -1;
static _Atomic(int) highest_inherited = -1;

enum synergy_mark mark_of(int fd) {
    if (fd < 0)
        return SYNERGY_UNTOUCHED;
    if (fd >= MARKED_DESCRIPTORS)
        return SYNERGY_UNKNOWN;
    return (enum synergy_mark)atomic_load_explicit(&marks[fd], memory_order_relaxed);
}

static void raise_to(_Atomic(int) *highest, int fd) {
    int known = atomic_load_explicit(highest, memory_order_relaxed);
    while (fd > known && !atomic_compare_exchange_weak(highest, &known, fd))
        ;
}

void set_mark(int fd, enum synergy_mark mark) {
    if (fd < 0 || fd >= MARKED_DESCRIPTORS)
        return;
    atomic_store_explicit(&marks[fd], (unsigned char)mark, memory_order_relaxed);
    if (mark == SYNERGY_WATCHED)
        raise_to(&highest_watched, fd);
    else if (mark == SYNERGY_INHERITED)
        raise_to(&highest_inherited, fd);
}

int forget_marks(unsigned int first, unsigned int last) {
    int had_watched = 0;
    for (unsigned int fd = first; fd <= last && fd < MARKED_DESCRIPTORS; fd++) {
        had_watched |= mark_of((int)fd) == SYNERGY_WATCHED;
        set_mark((int)fd, SYNERGY_UNKNOWN);
    }
    return had_watched;
}

int last_inherited(void) {
    return atomic_load_explicit(&highest_inherited, memory_order_relaxed);
}

void inherit_marks(void) {
    int highest = atomic_load_explicit(&highest_watched, memory_order_relaxed);
    for (int fd = 0; fd <= highest; fd++)
        if (mark_of(fd) == SYNERGY_WATCHED)
            set_mark(fd, SYNERGY_INHERITED);
}
