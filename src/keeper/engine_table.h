/*
 * What the shim and the engine know of each other: two tables of functions, in C, since the shim
 * has no C++ runtime. Either side is found by the other through them alone.
 */
#pragma once

#include <stdint.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

/* libc's own functions for the calls that the shim intercepts: called by name from the engine they
 * would come back to the hooks. Tests put failing ones here. */
struct synergy_libc {
    int (*bind)(int fd, const struct sockaddr *address, socklen_t length);
    int (*listen)(int fd, int backlog);
    int (*accept4)(int fd, struct sockaddr *address, socklen_t *length, int flags);
    int (*close)(int fd);
    ssize_t (*recvmsg)(int fd, struct msghdr *message, int flags);
    int (*socket)(int family, int type, int protocol);
    int (*connect)(int fd, const struct sockaddr *address, socklen_t length);
    int (*setsockopt)(int fd, int level, int option, const void *value, socklen_t length);
    ssize_t (*sendmsg)(int fd, const struct msghdr *message, int flags);
    /* Not libc's, but the shim's: from now on the hooks pass all calls of the calling thread
     * through. Its descriptors are not the server's, and libraries that it calls (libc's resolver
     * has plug-ins) call by name. */
    void (*pass_this_thread)(void);
};

/* What the engine found behind an accepted socket. */
enum synergy_accepted {
    SYNERGY_ORDINARY, /* nothing of ours: leave it */
    SYNERGY_REPLACED, /* the descriptor is a punched connection now */
    SYNERGY_NOTHING,  /* it was ours, has been closed, and there is no connection: accept again */
};

/* What is known of one of the server's descriptors. */
enum synergy_mark {
    SYNERGY_UNKNOWN,
    SYNERGY_UNTOUCHED, /* nothing of ours: its calls go straight to libc */
    SYNERGY_WATCHED,   /* it has holes: the engine wants to hear of its close() and its traffic */
    SYNERGY_INHERITED, /* watched in the process that forked this one, which has no engine yet */
};

/* No function throws, or takes a lock that is held while it blocks. errno is the caller's affair.
 */
struct synergy_engine {
    /* listen() has succeeded. */
    enum synergy_mark (*listening)(int fd);
    /* bind() to this address has succeeded. */
    enum synergy_mark (*bound)(int fd, const struct sockaddr *address, socklen_t length);
    /* bind() found the address in use: 1 if sockets of ours stood in the way and are gone now. */
    int (*give_way)(void);
    /* accept() on `listener` gave `fd`; `peer` (sockaddr_storage) receives the address if it was
     * replaced. */
    enum synergy_accepted (*accepted)(int listener, int fd, int flags,
                                      struct sockaddr_storage *peer, socklen_t *length);
    /* A socket that was not seen bound is about to receive. */
    enum synergy_mark (*receiving)(int fd);
    /* A descriptor that came to be without our listen() and bind() is about to be waited for: it
     * may be a listener of a parent's, of systemd's or of inetd's. */
    enum synergy_mark (*waiting)(int fd);
    /* A watched socket received a datagram from `peer`. */
    void (*received)(int fd, const struct sockaddr *peer, socklen_t length);
    /* A watched socket sent one to `peer`. */
    void (*sent)(int fd, const struct sockaddr *peer, socklen_t length);
    /* synergy_to(): 0, or an errno. */
    int (*open_toward)(int fd, const struct sockaddr *peer, socklen_t length, int hop_limit);
    /* A watched descriptor is about to be closed: 1 if by the process that watches it. A child by
     * vfork() shares the memory, but not the descriptors. */
    int (*closing)(int fd);
};

/* The one function that libsynergy-engine.so exports: hands over libc's functions and gives the
 * engine's; NULL if the engine can't work here. Called once a process. */
typedef const struct synergy_engine *synergy_engine_open_fn(const struct synergy_libc *libc);
#define SYNERGY_ENGINE_OPEN "synergy_engine_open"

#ifdef __cplusplus
}
#endif
