/*
 * What the shim in a server's process and the keeper beside it say to each other: messages over a
 * Unix socket, and a page of shared memory into which the shim looks. C, since the shim is C.
 *
 * The keeper believes nothing of this: a request is checked against the kernel and the sender's
 * credentials, and what stands in the page are hints for the shim and for the keeper alike.
 */
#pragma once

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Goes up with every change of what is in this file: a shim and a keeper of two releases refuse
 * each other. */
#define SYNERGY_WIRE_VERSION 7

/* At the same place for a 32-bit program, whose keeper may be a 64-bit one. */
typedef uint64_t synergy_u64 __attribute__((aligned(8)));

/* Descriptors that the keeper is started with. */
enum {
    SYNERGY_START_FD =
        3, /* SOCK_SEQPACKET: the answer to the start, and the starter's first requests */
    SYNERGY_STDERR_FD = 4, /* O_PATH, the server's stderr where that is no regular file; may be
                              closed. (Where it is a regular file, descriptor 2 is it.) */
};

/* The keeper's only argument, where it is synergy_to() that starts it: it stays though no peers are
 * set. */
#define SYNERGY_KEEPER_ASKED "asked"
/* ... and where there is no socket yet, and the server gives up what a start takes: the keeper ends
 * if none comes. */
#define SYNERGY_KEEPER_EARLY "early"

struct synergy_secret {
    uint8_t bytes[16];
};

/* Hexadecimal digits that each bell of a keeper's says, and that nobody else knows: who only says
 * that he is a bell is a client like others. */
struct synergy_bell_mark {
    char digits[16];
};

/* Where a keeper listens: abstract Unix names (unix(7)) without the leading zero byte. */
struct synergy_address {
    int32_t process; /* of the keeper: SO_PEERCRED must say the same */
    uint8_t length;
    char name[27];
};

/* An internet address, of either family, as sockaddr_in or sockaddr_in6 has it; family 0: none. */
union synergy_endpoint {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

enum synergy_transport { SYNERGY_TCP, SYNERGY_UDP, SYNERGY_SCTP, SYNERGY_TRANSPORTS };

enum synergy_kind {
    /* A socket of the server's listens (TCP, SCTP) or is bound (UDP): punch for it. A duplicate of
       it comes along. */
    SYNERGY_OPEN = 1,
    /* synergy_to(): the same toward `peer` alone, with `hop_limit`. A duplicate comes along. */
    SYNERGY_OPEN_TOWARD,
    /* `cookie` was closed or shut down by this process, which has no other descriptor of it as far
     * as it knows: what is kept for it may be over. Answered when the ports are free again. The
     * keeper looks for others itself, but as root it may not be able to: then this is believed. One
     * that was shut down comes along: while it stays open it keeps its port from others as without
     * us. */
    SYNERGY_CLOSED,
    /* bind() found its address in use, or close_range() left one free: close what stands for
     * sockets that are gone. Comes to the keeper of a port by its name, too: for the keeper's own
     * user and root; needs no secret. With a port in `cookie` that has its next listener, whose
     * keeper is another one: all goes that waits for that. With a port in `peer`, which bind() has
     * found in use: so does what has the errors of punches from there. */
    SYNERGY_GIVE_WAY,
    /* The accepted end of a bell comes along; the connection that rang comes back, with all that
     * the bell had from its listener, blocking or not as `flags` says (SOCK_NONBLOCK). Needs no
     * secret: the bell is the proof. What is no bell comes back (ENOENT): it may be closed by
     * now, so that there is room for the connection. */
    SYNERGY_FETCH,
    /* This process, or its child `process` if that is not 0, has sockets that the keeper keeps. No
       answer. */
    SYNERGY_HERE,
    /* Who has a socket that this keeper keeps asks for the page: it comes back as a descriptor. The
     * socket comes along as the proof; needs no secret. */
    SYNERGY_MEET,
    /* A socket of the server's (TCP, one-to-one SCTP) is about to listen: punch for it now, since
     * where a hole is open from before, the listener would answer a peer's SYN with a number of its
     * own, which closes the hole. A duplicate comes along, and in `flags` whether the server itself
     * has set SO_REUSEADDR. LISTENS follows by the same connection when it listens, where this was
     * done, or else OPEN; if it can't, CLOSED. */
    SYNERGY_PREPARE,
    /* The socket that comes along has been given a key (TCP_MD5SIG), which nobody can read again:
     * if it listens, now or later, its punches are signed. */
    SYNERGY_KEY,
    /* What has become of each hole: a memfd with a JSON document comes back
     * (tools/status.schema.json). For the keeper's own user and root; needs no secret. */
    SYNERGY_STATUS,
    /* The process executes a program that will have the socket with `cookie` and not the library;
     * 0: that will be in secure execution. To be logged. No answer. With `flags` SYNERGY_ENDS: the
     * socket is closed by that, if by anything, and the port to be free then. */
    SYNERGY_EXECUTED_WITHOUT,
    /* The socket that comes along, of the transport in `flags`, is to be bound to `peer`, or to
     * listen there, and has SO_REUSEPORT: EADDRINUSE where a server's socket is in the way, and its
     * SO_REUSEPORT is not the server's but ours; whether its SO_REUSEADDR is, `flags` tell. For the
     * keeper's own user and root; needs no secret. */
    SYNERGY_BIND,
    /* The next process has bound a port whose server has ended a moment ago (a shell's loop starts
     * one after the other): the keeper becomes this one's, with the holes that it has kept, and
     * its page comes back. The socket comes along as the proof, and `cookie` is
     * synergy_circumstances(); where they differ the keeper ends, lest its sockets be in the way of
     * another one's. For the keeper's own user and root; needs no secret. EBUSY: it has a server.
     */
    SYNERGY_ADOPT,
    /* bind() has found the address in `peer` in use, for the socket that comes along: 0 where
     * nothing is there but what the keeper has kept for whoever listens there next, so that
     * SO_REUSEPORT gets by. Else ENOENT. */
    SYNERGY_BESIDE,
    /* The socket with `cookie` listens now, for which PREPARE has punched. No answer: what listen()
     * has to wait for is done. */
    SYNERGY_LISTENS,
    /* By another keeper, whose server shares the port with this one's listener `cookie`, each by a
     * SO_REUSEPORT of its own: what comes along is this listener's from now on, a connection with
     * `peer`, or a punch toward it where `key` says how that stands (GuardStanding). `beginning`
     * tells the options that the peer has been told: they must be this listener's. For the keeper's
     * own user and root; needs no secret. Else ENOENT. */
    SYNERGY_TAKE,
    /* connect() to `peer` has found its ends in use, by the socket that comes along: what punches
     * between them makes way, until the connection is over. ENOENT: nothing does. */
    SYNERGY_MAKE_WAY,
    /* Whether the keeper is at work: who has a socket to pass along asks that first, since one that
     * is stopped would keep it from being closed. The request follows by the same connection. */
    SYNERGY_KNOCK,
};

/* `flags` of OPEN and PREPARE: what the server itself has set, SO_REUSEPORT and (of PREPARE alone
 * it counts) SO_REUSEADDR. */
enum { SYNERGY_SHARES = 1, SYNERGY_LETS_OTHERS_IN = 2 };

/* `flags` of EXECUTED_WITHOUT. */
enum { SYNERGY_ENDS = 1 };

/* As synergy_to() has it. */
enum { SYNERGY_AUTOMATIC_HOPS = -1 };

/* The longest is TCP_MD5SIG's (linux/tcp.h). */
enum { SYNERGY_KEY_SIZE = 216 };

struct synergy_request {
    uint32_t version; /* SYNERGY_WIRE_VERSION */
    uint32_t kind;    /* enum synergy_kind */
    struct synergy_secret secret;
    synergy_u64 cookie; /* SO_COOKIE */
    int32_t fd;         /* the number that the server has for the socket, for the log alone */
    int32_t process;
    int32_t flags;
    int32_t hop_limit; /* or SYNERGY_AUTOMATIC_HOPS */
    union synergy_endpoint peer;
    int32_t key_option; /* KEY: TCP_MD5SIG or TCP_MD5SIG_EXT */
    uint32_t key_length;
    uint8_t key[SYNERGY_KEY_SIZE];
    synergy_u64 beginning; /* TAKE */
};

/* FNV-1a. */
static inline synergy_u64 synergy_hash(synergy_u64 hash, const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3U;
    return hash;
}

/* What a keeper is started with, that tells it apart from another one: its environment, and where
 * its lines, paths and user come from. `log`: a descriptor of the server's stderr. */
static inline synergy_u64 synergy_circumstances(char *const *environment, int log) {
    const synergy_u64 start = 0xcbf29ce484222325U;
    synergy_u64 numbers[6] = {geteuid()}, variables = 0;
    struct stat status;
    for (; environment && *environment; environment++)
        variables += synergy_hash(start, *environment, strlen(*environment));
    if (fstat(log, &status) == 0) {
        numbers[1] = status.st_dev;
        numbers[2] = status.st_ino;
        if (S_ISREG(status.st_mode)) /* one opened twice has two */
            numbers[3] = (synergy_u64)lseek(log, 0, SEEK_CUR);
    }
    if (stat("/", &status) == 0) {
        numbers[4] = status.st_dev;
        numbers[5] = status.st_ino;
    }
    return synergy_hash(variables, numbers, sizeof numbers);
}

/* What the shim is to do with a descriptor from now on. */
enum synergy_mark {
    SYNERGY_UNKNOWN,
    SYNERGY_UNTOUCHED, /* nothing of ours: its calls go straight to libc */
    SYNERGY_LISTENER,  /* bells may ring at it */
    SYNERGY_DATAGRAMS, /* its traffic is noted in the page */
};

struct synergy_answer {
    uint32_t version;
    /* 0: it is done, or will be without a further word of the server's (the hop limit is still
     * being measured). Else an errno: what synergy_to() promises; EEXIST, another keeper has the
     * socket; ENOENT, there is nothing here for what was asked (OPEN: no peer, or no way to hand a
     * connection over, GIVE_WAY: nothing has ended, FETCH, MEET: unknown). */
    int32_t result;
    uint32_t mark; /* OPEN, OPEN_TOWARD, MEET: enum synergy_mark */
    /* The same, and BIND: what the server itself has set, as in a request's flags, as far as it is
     * known. */
    uint32_t flags;
    union synergy_endpoint
        peer; /* FETCH: whose connection it is. A v4-mapped one where the listener is AF_INET6 */
};

/* The answer to the start comes by SYNERGY_START_FD with the page's descriptor; the result tells
 * why there will be nothing (ENOENT: no peers are set and none can come, the keeper has ended:
 * don't ask again). */

/* Noted traffic: places with a mark in the high half, whole seconds of CLOCK_MONOTONIC below. */
enum { SYNERGY_TRAFFIC_BITS = 10, SYNERGY_TRAFFIC_PLACES = 1 << SYNERGY_TRAFFIC_BITS };

enum synergy_way { SYNERGY_RECEIVED, SYNERGY_SENT };

/* The page: a memfd, mapped shared by the keeper and by every process of the server, inherited by
 * fork. Every number in it is read and written by the __atomic built-ins. */
struct synergy_page {
    uint32_t version;
    uint32_t over; /* the keeper has ended in order: what it kept is gone */
    /* The keeper's number (gettid(2)), and FUTEX_OWNER_DIED when it has ended. If it is killed the
     * kernel puts that here (set_robust_list(2)): that is felt without asking it. */
    uint32_t holder;
    uint32_t standby; /* the same of the one that waits for that; 0: there is none */
    /* Seconds of CLOCK_MONOTONIC, told each second while there are datagram sockets: a clock of the
     * kernel's costs as much as all that is noted of a datagram. Never ahead. */
    uint32_t now;
    struct synergy_address keeper;
    struct synergy_secret secret;
    /* What bells say, of this keeper's and of the one whose place it has taken. */
    struct synergy_bell_mark bells, bells_before;
    synergy_u64 network;     /* SO_NETNS_COOKIE of the keeper's sockets; 0: the kernel has none */
    uint32_t user;           /* whose sockets it can bind beside */
    uint32_t suits_any_user; /* or whoever's the first one is: it has none yet, and may choose */
    uint32_t
        asks_for_all; /* synergy_to() has named peers of sockets to come: ports[] does not tell */
    /* A process of the server's accepts under a filter that forbids it to ask for anything: no bell
     * is to ring. */
    uint32_t is_deaf;
    /* How many filters the library has seen the server's processes set. */
    uint32_t filters;
    int32_t leaving; /* the process of the server's that has called exit(3) last; 0: none */
    int32_t silent;  /* the process of the server whose stderr is /dev/null now; 0: none */
    /* Goes up when a process of the server's has no descriptor left for a connection, or for
     * fetching it: the bell rings again when there is room. */
    uint32_t starved;
    uint32_t ringing; /* how many bells ring */
    uint32_t rung;    /* and have rung: it goes up as long as the keeper is at work */
    /* A bit for each local port for which there is a peer, or may come to be one, by transport. */
    uint8_t ports[SYNERGY_TRANSPORTS][65536 / 8];
    /* Ports that the kernel chose count as well (UDP), since peers are set for every port. */
    uint32_t any_udp_port;
    /* When a datagram was last sent to die on its way, in whole seconds of CLOCK_MONOTONIC: the
     * error that it brings back is not the server's. */
    uint32_t punched;
    synergy_u64 traffic[SYNERGY_TRAFFIC_PLACES];
};

/* What a bell is known by, to who has no page too. It comes from the very address that it goes to,
 * by one of these ports, above what Linux gives out by itself; the keeper knows its four-tuple; and
 * it says what it is as soon as it has been connected, for who can't reach the keeper. */
enum { SYNERGY_FIRST_BELL_PORT = 61700, SYNERGY_BELL_PORTS = 2048 };
#define SYNERGY_BELL_TEXT "synergy: a bell "

/* A line. By the keeper's name it is found by who knows nothing of it but the bell. */
struct synergy_bell {
    char text[16];   /* SYNERGY_BELL_TEXT, without the zero byte */
    char keeper[12]; /* the end of its name, after SYNERGY_KEEPER_NAME */
    char space;
    struct synergy_bell_mark mark;
    char end;
};

static inline int synergy_is_bell_port(uint16_t port) {
    return (uint16_t)(port - SYNERGY_FIRST_BELL_PORT) < SYNERGY_BELL_PORTS;
}

/* What who has accepted a bell says on it before closing it, if it can't have the connection that
 * the bell stands for. */
#define SYNERGY_REFUSAL_TEXT "synergy: refused"
struct synergy_refusal {
    char text[16]; /* SYNERGY_REFUSAL_TEXT, without the zero byte */
    int32_t error; /* why: an errno, by which the keeper knows whether that may pass */
};

/* Whether it is a bell of the keeper's whose page this is. */
static inline int synergy_is_bell_of(const struct synergy_page *page,
                                     const struct synergy_bell *said) {
    return memcmp(said->text, SYNERGY_BELL_TEXT, sizeof said->text) == 0 &&
           (memcmp(&said->mark, &page->bells, sizeof said->mark) == 0 ||
            memcmp(&said->mark, &page->bells_before, sizeof said->mark) == 0);
}

/* FUTEX_OWNER_DIED, linux/futex.h. */
#define SYNERGY_HOLDER_DIED 0x40000000U

/* Whether the keeper has ended, in whatever way. */
static inline int synergy_is_over(const struct synergy_page *page) {
    return (__atomic_load_n(&page->holder, __ATOMIC_ACQUIRE) & SYNERGY_HOLDER_DIED) != 0;
}

static inline void synergy_set_over(struct synergy_page *page) {
    __atomic_store_n(&page->over, 1, __ATOMIC_RELEASE);
    __atomic_fetch_or(&page->holder, SYNERGY_HOLDER_DIED, __ATOMIC_RELEASE);
}

/* By a keeper that was asked after all. */
static inline void synergy_unset_over(struct synergy_page *page) {
    __atomic_store_n(&page->over, 0, __ATOMIC_RELEASE);
    __atomic_fetch_and(&page->holder, ~SYNERGY_HOLDER_DIED, __ATOMIC_RELEASE);
}

static inline int synergy_bit(const uint8_t *bits, uint16_t port) {
    return (__atomic_load_n(&bits[port / 8], __ATOMIC_ACQUIRE) >> (port % 8)) & 1;
}

/* Where the page's traffic of a socket and a peer stands: a place, and the mark in it. Two that
 * fall on one place overwrite each other, so `none` may be wrong; a time is not (but for a
 * collision of 32 bits). */
struct synergy_place {
    uint32_t number, mark;
};

/* `peer`: of AF_INET or AF_INET6, and as far as to the address. */
static inline struct synergy_place synergy_place_of(enum synergy_way way, uint64_t cookie,
                                                    const void *peer) {
    const char *bytes = (const char *)peer;
    sa_family_t family;
    uint16_t port; /* in both families at the same place */
    memcpy(&family, bytes + offsetof(struct sockaddr, sa_family), sizeof family);
    memcpy(&port, bytes + offsetof(struct sockaddr_in6, sin6_port), sizeof port);
    uint64_t halves[2] = {0, 0};
    if (__builtin_expect(family == AF_INET6, 1)) {
        memcpy(halves, bytes + offsetof(struct sockaddr_in6, sin6_addr), sizeof halves);
    } else {
        /* A v4-mapped peer and its plain address are the same one. */
        uint32_t words[2] = {htonl(0xffff), 0};
        memcpy(&words[1], bytes + offsetof(struct sockaddr_in, sin_addr), sizeof words[1]);
        memcpy(&halves[1], words, sizeof words);
    }
    /* Multiplied by odd numbers without a pattern (the golden ratio's, and one of splitmix64's) and
     * added, of which the upper bits are good (Dietzfelbinger): no more, since it is in the way of
     * each datagram. */
    uint64_t hash = (halves[0] + cookie * 2 + (uint64_t)way) * 0x9e3779b97f4a7c15U +
                    (halves[1] ^ (uint64_t)port << 32) * 0xbf58476d1ce4e5b9U;
    struct synergy_place place = {.number = (uint32_t)(hash >> (64 - SYNERGY_TRAFFIC_BITS)),
                                  .mark = (uint32_t)(hash >> (32 - SYNERGY_TRAFFIC_BITS))};
    return place;
}

static inline uint64_t synergy_traffic(uint32_t mark, uint32_t second) {
    return (uint64_t)mark << 32 | second;
}

/* Every keeper listens under an abstract name that begins like this, by which they are all found;
 * what follows is random. */
#define SYNERGY_KEEPER_NAME "synergy-keeper/"

/* By which abstract name the keeper is found whose bell has said this. */
static inline void synergy_name_of_ringer(const struct synergy_bell *said,
                                          struct synergy_address *address) {
    enum { LENGTH = sizeof SYNERGY_KEEPER_NAME - 1 };
    memcpy(address->name, SYNERGY_KEEPER_NAME, LENGTH);
    memcpy(address->name + LENGTH, said->keeper, sizeof said->keeper);
    address->length = LENGTH + sizeof said->keeper;
}

/* By which abstract name the keeper of a socket is found by who has only the socket: "synergy/" and
 * the cookie, 16 hexadecimal digits. */
static inline void synergy_name_of(uint64_t cookie, struct synergy_address *address) {
    static const char digits[] = "0123456789abcdef";
    memcpy(address->name, "synergy/", 8);
    for (int i = 0; i < 16; i++)
        address->name[8 + i] = digits[(cookie >> (60 - 4 * i)) & 15];
    address->length = 24;
}

/* By which abstract name a keeper is found that has a socket on this port, of TCP or not shared by
 * its server: "synergy/port/", the transport as its number, and four hexadecimal digits. */
static inline void synergy_port_name(int transport, uint16_t port,
                                     struct synergy_address *address) {
    static const char digits[] = "0123456789abcdef";
    memcpy(address->name, "synergy/port/", 13);
    address->name[13] = digits[transport & 15];
    for (int i = 0; i < 4; i++)
        address->name[14 + i] = digits[(port >> (12 - 4 * i)) & 15];
    address->length = 18;
}

#ifdef __cplusplus
}
#endif
