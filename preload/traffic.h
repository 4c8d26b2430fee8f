/*
 * Which peers a UDP socket hears, and to whom it sends: noted in the page for the keeper, which
 * renews no hole that the server's own datagrams renew. Everything here is to be called after
 * libc's call has succeeded, with what was known of the descriptor (descriptor_word(),
 * SYNERGY_DATAGRAMS) before it: while the call waited the number may have become another socket's.
 */
#pragma once

#include "aside.h"
#include "keeper_client.h"

#include <stddef.h>
#include <sys/socket.h>

/* What of an address tells the peer are its first bytes. */
enum {
    V4_BYTES = offsetof(struct sockaddr_in, sin_zero),
    V6_BYTES = offsetof(struct sockaddr_in6, sin6_scope_id)
};

/* To be called with that many bytes of either family. */
static inline void note_peer(enum synergy_way way, uint64_t word, const struct sockaddr *address) {
    struct descriptor descriptor = unpacked_descriptor(word);
    struct synergy_page *page = keeper_page((int)descriptor.keeper);
    struct synergy_place place = synergy_place_of(way, descriptor.cookie, address);
    uint64_t *known = &page->traffic[place.number],
             noted = synergy_traffic(place.mark, __atomic_load_n(&page->now, __ATOMIC_RELAXED));
    /* Once a second: threads that all write there would wait for each other. */
    if (__atomic_load_n(known, __ATOMIC_RELAXED) != noted)
        __atomic_store_n(known, noted, __ATOMIC_RELAXED);
}

/* The server has sent to this address. */
static inline void note_sent(uint64_t word, const struct sockaddr *address, socklen_t length) {
    if (address && ((length >= V6_BYTES && address->sa_family == AF_INET6) ||
                    (length >= V4_BYTES && address->sa_family == AF_INET)))
        note_peer(SYNERGY_SENT, word, address);
}

/* note_received() where the address may be anything. */
void note_received_anywhere(uint64_t word, const struct sockaddr *address);

/* The last page that an address was found in: a server gives the same room again and again. */
OWN extern uintptr_t known_page;

static inline uintptr_t page_with(const void *byte) {
    return (uintptr_t)byte / LEAST_PAGE;
}

static inline int is_in_known_page(const void *address) {
    uintptr_t known = __atomic_load_n(&known_page, __ATOMIC_RELAXED);
    return page_with(address) == known && page_with((const char *)address + V6_BYTES - 1) == known;
}

/* It has received, and gave room for the sender's address there: how much is not known any more. */
static inline void note_received(uint64_t word, const struct sockaddr *address) {
    if (!is_variable_of_caller(address, V6_BYTES) &&
        __builtin_expect(!is_in_known_page(address), 0))
        note_received_anywhere(word, address);
    else if (address->sa_family == AF_INET6 || address->sa_family == AF_INET)
        note_peer(SYNERGY_RECEIVED, word, address);
}

/* A call on it has failed with EHOSTUNREACH: whether that can be the error of a punch, which dies
 * on its way and not at its end, and which the kernel gives to the socket that has the port. A
 * server sees it that asks for errors (IP_RECVERR). */
int is_perhaps_punchs(int fd);

/* What came from the error queue (MSG_ERRQUEUE) is a punch: it is empty, and its hop limit was
 * exceeded. */
int is_punchs(struct msghdr *message, ssize_t size);
