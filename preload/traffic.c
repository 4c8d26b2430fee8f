#include "traffic.h"

#include <errno.h>

/* The last page that an address was found in: a server gives the same room again and again. */
static uintptr_t known_page = UINTPTR_MAX; /* none */

/* How much of it can be read, where that could be V6_BYTES. */
static size_t bytes_at(const void *address) {
    uintptr_t first = (uintptr_t)address / LEAST_PAGE,
              last = ((uintptr_t)address + V6_BYTES - 1) / LEAST_PAGE;
    if (first == last && first == __atomic_load_n(&known_page, __ATOMIC_RELAXED))
        return V6_BYTES;
    int error = errno;
    size_t found = readable_bytes(address, V6_BYTES);
    errno = error;
    if (found > 0)
        __atomic_store_n(&known_page, first, __ATOMIC_RELAXED);
    return found;
}

void note_received_anywhere(uint64_t word, const struct sockaddr *address) {
    size_t found = bytes_at(address);
    if ((found >= V6_BYTES && address->sa_family == AF_INET6) ||
        (found >= V4_BYTES && address->sa_family == AF_INET))
        note_peer(SYNERGY_RECEIVED, word, address);
}
