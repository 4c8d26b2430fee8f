#include "server_sockets.h"

#include "aside.h"
#include "keeper_client.h"
#include "libc_calls.h"
#include "process.h"
#include "settings_look.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

/* As synergy_page's ports[] counts them. */
enum transport { TCP, UDP, SCTP, NEITHER = -1 };

static int option(int fd, int name) {
    int value = 0;
    socklen_t length = sizeof value;
    return libc.getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0 ? value : -1;
}

/* NEITHER and errno, which is 0 for a socket of another kind. */
static enum transport transport_of(int fd) {
    errno = 0;
    switch (option(fd, SO_PROTOCOL)) {
    case IPPROTO_TCP:
    case IPPROTO_MPTCP:
        return TCP;
    case IPPROTO_UDP:
        return UDP;
    case IPPROTO_SCTP:
        return SCTP;
    default:
        return NEITHER;
    }
}

static int is_one_to_many(int fd, enum transport transport) {
    return transport == SCTP && option(fd, SO_TYPE) == SOCK_SEQPACKET;
}

static uint16_t port_in(const struct sockaddr *address) {
    union synergy_endpoint endpoint = {0};
    /* In both families at the same place. */
    memcpy(&endpoint, address, sizeof endpoint.v4);
    return ntohs(endpoint.v4.sin_port);
}

/* 0 where it has none, or is of another family. */
static uint16_t port_of(int fd) {
    struct sockaddr_storage local = {0};
    socklen_t length = sizeof local;
    if (getsockname(fd, (struct sockaddr *)&local, &length) != 0 ||
        (local.ss_family != AF_INET && local.ss_family != AF_INET6))
        return 0;
    return port_in((struct sockaddr *)&local);
}

/* Who is asked for by synergy_to() may have any port. */
static int is_asked_for(int keeper) {
    return keeper != NO_KEEPER &&
           __atomic_load_n(&keeper_page(keeper)->asks_for_all, __ATOMIC_ACQUIRE);
}

static int has_peers(int keeper, enum transport transport, uint16_t port, int is_kernels_choice) {
    const struct synergy_page *page = keeper_page(keeper);
    if (is_asked_for(keeper))
        return 1;
    return is_kernels_choice ? (int)__atomic_load_n(&page->any_udp_port, __ATOMIC_ACQUIRE)
                             : synergy_bit(page->ports[transport], port);
}

/* So that the keeper's sockets may be bound beside it (socket(7)). */
static void admit_others(int fd) {
    static const int on = 1;
    libc.setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    libc.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
}

/* Here or at the keeper's: what is short now may be had later. */
static int is_shortage(int error) {
    return error == EMFILE || error == ENFILE;
}
static int is_anything_open;
/* To be asked before that. */
static int flags_of(int fd) {
    return option(fd, SO_REUSEPORT) == 1 ? SYNERGY_SHARES : 0;
}

/* Has the keeper punch for the socket, and notes what it is to us. 0, or an errno. */
static int hand_over(int fd, const struct identity *identity, int keeper,
                     struct synergy_request *request) {
    struct synergy_answer answer = {0};
    request->fd = fd;
    request->cookie = identity->cookie;
    int error = ask_keeper(keeper, request, fd, &answer);
    if (error == 0 && answer.result == EEXIST) {
        /* Another process has handed it over to its own keeper. */
        keeper = met_keeper(fd, identity, &answer);
        error = keeper == NO_KEEPER ? EEXIST : 0;
        if (error == 0 && request->kind == SYNERGY_OPEN_TOWARD)
            error = ask_keeper(keeper, request, fd, &answer);
    }
    struct descriptor descriptor = {.mark = SYNERGY_UNTOUCHED};
    if (error == 0 && answer.result == 0)
        descriptor = (struct descriptor){.mark = (enum synergy_mark)answer.mark,
                                         .keeper = (unsigned)keeper,
                                         .cookie = identity->cookie};
    else if (is_shortage(error) || is_shortage(answer.result) ||
             request->kind == SYNERGY_OPEN_TOWARD)
        descriptor.mark = SYNERGY_UNKNOWN;
    set_descriptor(fd, descriptor);
    if (is_ours(descriptor.mark))
        __atomic_store_n(&is_anything_open, 1, __ATOMIC_RELAXED);
    return error ? error : answer.result;
}

/* Nothing comes of it but what the keeper says, if there is nothing else that it punches for. */
static void tell_of_left_out(int fd, const struct identity *identity, int keeper) {
    struct synergy_request request = {.kind = SYNERGY_OPEN,
                                      .hop_limit = SYNERGY_AUTOMATIC_HOPS,
                                      .fd = fd,
                                      .cookie = identity->cookie};
    struct synergy_answer answer = {0};
    ask_keeper(keeper, &request, fd, &answer);
}

uint32_t left_out_port;

/* The last socket that was bound to a port of which SYNERGY_PORTS says nothing. */
static struct {
    int fd;
    uint16_t port;
} left_out = {.fd = -1};

static int is_loopback(const struct sockaddr *address) {
    union synergy_endpoint endpoint = {0};
    /* (Of IPv6 the caller has checked no more than that there is room for IPv4.) */
    memcpy(&endpoint, address, sizeof endpoint.v4);
    if (endpoint.any.sa_family == AF_INET)
        return ntohl(endpoint.v4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    memcpy(&endpoint, address, sizeof endpoint.v6);
    return IN6_IS_ADDR_LOOPBACK(&endpoint.v6.sin6_addr);
}

/* Nothing is asked of the kernel, which such a server must not feel. */
static void leave_out(int fd, const struct sockaddr *address, uint16_t port) {
    if (is_loopback(address))
        return;
    left_out.fd = fd;
    left_out.port = port;
}

void left_out_listens(int fd) {
    if (fd == left_out.fd && !knows_keepers())
        __atomic_store_n(&left_out_port, left_out.port, __ATOMIC_RELAXED);
}

void say_left_out_port(void) {
    static int is_said;
    unsigned port = __atomic_exchange_n(&left_out_port, 0, __ATOMIC_RELAXED);
    const char *ports = settings_variable("SYNERGY_PORTS");
    if (port == 0 || knows_keepers() || !ports || !settings_variable("SYNERGY_PEERS") ||
        __atomic_exchange_n(&is_said, 1, __ATOMIC_RELAXED))
        return;
    char text[] = "00000", *digits = text + sizeof text - 1;
    do
        *--digits = (char)('0' + port % 10);
    while (port /= 10);
    SAY("synergy: warning: nothing is punched: port ", digits,
        " is not among those of SYNERGY_PORTS: ", ports);
}

/* Has the socket punched for if there are peers for its port, or may come to be. */
static void open_socket(int fd, enum transport transport, uint16_t port, int is_kernels_choice) {
    struct identity identity;
    if (!identify(fd, &identity))
        return;
    int keeper = known_keeper(&identity);
    if (!is_asked_for(keeper)) {
        if (!settings_mean_port(port)) {
            set_mark(fd, SYNERGY_UNTOUCHED);
            return;
        }
        keeper = needed_keeper(&identity, SOCKET_IS_THERE, fd, transport == TCP ? port : 0);
    }
    if (keeper == NO_KEEPER || !has_peers(keeper, transport, port, is_kernels_choice)) {
        if (keeper != NO_KEEPER && transport != UDP && !is_anything_open)
            tell_of_left_out(fd, &identity, keeper);
        set_mark(fd, SYNERGY_UNTOUCHED);
        return;
    }
    struct synergy_request request = {
        .kind = SYNERGY_OPEN, .flags = flags_of(fd), .hop_limit = SYNERGY_AUTOMATIC_HOPS};
    if (transport != UDP && !is_one_to_many(fd, transport))
        admit_others(fd);
    hand_over(fd, &identity, keeper, &request);
}

static void tell(unsigned keeper, enum synergy_kind kind, uint64_t cookie) {
    struct synergy_request request = {.kind = kind, .cookie = cookie};
    struct synergy_answer answer;
    if (!synergy_is_over(keeper_page((int)keeper)))
        ask_keeper((int)keeper, &request, -1, &answer);
}

static void set_option(int fd, int name, int value) {
    setsockopt(fd, SOL_SOCKET, name, &value, sizeof value);
}

struct preparation socket_will_listen(int fd) {
    struct preparation preparation = {.keeper = NO_KEEPER};
    struct identity identity;
    enum transport transport = transport_of(fd);
    int is_listener = transport == TCP || (transport == SCTP && !is_one_to_many(fd, transport));
    uint16_t port = is_listener ? port_of(fd) : 0;
    if (port == 0 || option(fd, SO_ACCEPTCONN) == 1 || !identify(fd, &identity))
        return preparation;
    int keeper = known_keeper(&identity);
    if (!is_asked_for(keeper)) {
        if (!settings_mean_port(port))
            return preparation;
        keeper = needed_keeper(&identity, SOCKET_IS_THERE, fd, port);
    }
    if (keeper == NO_KEEPER || !has_peers(keeper, transport, port, 0))
        return preparation;
    preparation = (struct preparation){.keeper = keeper,
                                       .lets_others_in = option(fd, SO_REUSEADDR),
                                       .shares_port = option(fd, SO_REUSEPORT)};
    admit_others(fd);
    struct synergy_request request = {
        .kind = SYNERGY_PREPARE,
        .cookie = identity.cookie,
        .fd = fd,
        .hop_limit = -1,
        .flags = (preparation.shares_port ? SYNERGY_SHARES : 0) |
                 (preparation.lets_others_in ? SYNERGY_LETS_OTHERS_IN : 0)};
    struct synergy_answer answer;
    ask_keeper(keeper, &request, fd, &answer);
    /* Whether a second listener may have the port too is for listen() to say, as without us. */
    set_option(fd, SO_REUSEPORT, preparation.shares_port);
    return preparation;
}

void socket_asks_for_errors(int fd) {
    struct descriptor descriptor = descriptor_of(fd);
    struct identity identity;
    struct synergy_request request = {
        .kind = SYNERGY_OPEN, .flags = flags_of(fd), .hop_limit = SYNERGY_AUTOMATIC_HOPS};
    if (descriptor.mark == SYNERGY_DATAGRAMS && identify(fd, &identity) &&
        identity.cookie == descriptor.cookie)
        hand_over(fd, &identity, (int)descriptor.keeper, &request);
}

void socket_does_not_listen(int fd, const struct preparation *preparation) {
    struct identity identity;
    if (preparation->keeper == NO_KEEPER)
        return;
    set_option(fd, SO_REUSEADDR, preparation->lets_others_in);
    if (identify(fd, &identity))
        tell((unsigned)preparation->keeper, SYNERGY_CLOSED, identity.cookie);
}

void socket_listens(int fd) {
    enum transport transport = transport_of(fd);
    uint16_t port = transport == TCP || transport == SCTP ? port_of(fd) : 0;
    if (port == 0)
        set_mark(fd, SYNERGY_UNTOUCHED);
    else if (is_one_to_many(fd, transport) && option(fd, SO_ACCEPTCONN) != 1)
        set_mark(fd, SYNERGY_UNKNOWN); /* listen(fd, 0) ends it */
    else
        open_socket(fd, transport, port, 0);
}

void socket_is_bound(int fd, const struct sockaddr *address, socklen_t length) {
    if (length < sizeof(struct sockaddr_in) ||
        (address->sa_family != AF_INET && address->sa_family != AF_INET6)) {
        set_mark(fd, SYNERGY_UNKNOWN);
        return;
    }
    uint16_t port = port_in(address);
    /* Told by the port alone where possible, so that other servers don't see a single call more. */
    if (port != 0 && !settings_mean_port(port) && !knows_keepers()) {
        if (length >= sizeof(struct sockaddr_in6) || address->sa_family == AF_INET)
            leave_out(fd, address, port);
        set_mark(fd, SYNERGY_UNTOUCHED);
        return;
    }
    enum transport transport = transport_of(fd);
    if (transport == UDP) {
        open_socket(fd, UDP, port ? port : port_of(fd), port == 0);
        return;
    }
    set_mark(fd, transport == NEITHER ? SYNERGY_UNTOUCHED : SYNERGY_UNKNOWN);
    struct identity identity;
    /* If it will listen, this is the last moment at which the server surely has the rights that the
     * keeper needs. */
    if (transport != NEITHER && port != 0 && settings_mean_port(port) && identify(fd, &identity))
        needed_keeper(&identity, SOCKET_IS_THERE, fd, transport == TCP ? port : 0);
}

int is_taken(int fd, const struct sockaddr *address, socklen_t length) {
    struct synergy_request request = {.kind = SYNERGY_BIND};
    socklen_t size = length < sizeof request.peer ? length : sizeof request.peer;
    if (size < sizeof request.peer.v4 || readable_bytes(address, size) < size)
        return 0;
    memcpy(&request.peer, address, size);
    uint16_t port = ntohs(request.peer.v4.sin_port);
    int family = request.peer.any.sa_family;
    if ((family != AF_INET && (family != AF_INET6 || size < sizeof request.peer.v6)) ||
        length > sizeof(struct sockaddr_storage) || port == 0 || !settings_mean_port(port) ||
        option(fd, SO_REUSEPORT) != 1 || option(fd, SO_DOMAIN) != family || port_of(fd) != 0)
        return 0;
    enum transport transport = transport_of(fd);
    struct synergy_answer answer = {0};
    request.flags = transport;
    return transport != NEITHER && ask_who_has_port(transport, port, &request, fd, &answer) == 0 &&
           answer.result == EADDRINUSE;
}

void socket_has_key(int fd, int option, const void *key, socklen_t length) {
    struct identity identity;
    uint16_t port = port_of(fd);
    if (transport_of(fd) != TCP || length > SYNERGY_KEY_SIZE ||
        (port != 0 && !settings_mean_port(port)) || !identify(fd, &identity))
        return;
    int keeper = needed_keeper(&identity, SOCKET_IS_THERE, fd, 0);
    if (keeper == NO_KEEPER)
        return;
    struct synergy_request request = {
        .kind = SYNERGY_KEY, .cookie = identity.cookie, .key_option = option, .key_length = length};
    struct synergy_answer answer;
    memcpy(request.key, key, length);
    ask_keeper(keeper, &request, fd, &answer);
}

/* Whether the address would be free for one that lets others have it too: then no listener is
 * there, but what a server that was killed just now has left, for a moment yet. */
static int is_about_to_be_free(int fd, const struct sockaddr *address, socklen_t length) {
    int again = (int)syscall(SYS_socket, address->sa_family, option(fd, SO_TYPE) | SOCK_CLOEXEC,
                             option(fd, SO_PROTOCOL));
    if (again < 0)
        return 0;
    admit_others(again);
    int is_free = syscall(SYS_bind, again, address, length) == 0;
    syscall(SYS_close, again);
    return is_free;
}

static int do_keepers_give_way(void) {
    int is_any = 0;
    for (int i = 0; process_is_own() && i < KEEPERS && keeper_page(i); i++) {
        struct synergy_request request = {.kind = SYNERGY_GIVE_WAY};
        struct synergy_answer answer;
        is_any |= !synergy_is_over(keeper_page(i)) && ask_keeper(i, &request, -1, &answer) == 0 &&
                  answer.result == 0;
    }
    return is_any;
}

/* Whether nothing keeps the address from the socket but what a keeper has kept for it since the
 * last listener was closed. */
static int is_kept_for(int fd, const struct sockaddr *address, socklen_t length) {
    socklen_t size =
        address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    struct synergy_request request = {.kind = SYNERGY_BESIDE};
    struct synergy_answer answer;
    if (length < size || transport_of(fd) != TCP || option(fd, SO_DOMAIN) != address->sa_family ||
        port_of(fd) != 0)
        return 0;
    memcpy(&request.peer, address, size);
    for (int i = 0; process_is_own() && i < KEEPERS && keeper_page(i); i++)
        if (!synergy_is_over(keeper_page(i)) && ask_keeper(i, &request, fd, &answer) == 0 &&
            answer.result == 0)
            return 1;
    return 0;
}

static int bind_beside(int fd, const struct sockaddr *address, socklen_t length) {
    int shares = option(fd, SO_REUSEPORT);
    set_option(fd, SO_REUSEPORT, 1);
    int result = libc.bind(fd, address, length), error = errno;
    set_option(fd, SO_REUSEPORT, shares);
    errno = error;
    return result;
}

/* What a server that has ended has left for the next one of its kind. */
static void have_port_given_up(enum transport transport, uint16_t port) {
    struct synergy_request request = {.kind = SYNERGY_GIVE_WAY};
    struct synergy_answer answer = {0};
    if (transport == TCP && port != 0 && settings_mean_port(port))
        ask_who_has_port(transport, port, &request, -1, &answer);
}

int bind_again(int fd, const struct sockaddr *address, socklen_t length) {
    enum { PATIENCE_MS = 20, DATAGRAM_PATIENCE_MS = 6 };
    if (length < sizeof(struct sockaddr_in) ||
        (address->sa_family != AF_INET && address->sa_family != AF_INET6)) {
        errno = EADDRINUSE;
        return -1;
    }
    uint16_t port = port_in(address);
    enum transport transport = transport_of(fd);
    int patience = 0, has_way_been_given = 0, result, error;
    for (int waited = 0;; waited++) {
        if (is_kept_for(fd, address, length)) {
            result = bind_beside(fd, address, length);
            has_way_been_given = 1;
        } else {
            has_way_been_given |= do_keepers_give_way();
            if (waited == 0)
                have_port_given_up(transport, port);
            result = libc.bind(fd, address, length);
        }
        error = errno;
        /* A datagram socket that is about to go can't be told from one that stays. */
        if (waited == 0 && result != 0 && error == EADDRINUSE && port != 0 &&
            settings_mean_port(port))
            patience = transport == UDP                           ? DATAGRAM_PATIENCE_MS
                       : is_about_to_be_free(fd, address, length) ? PATIENCE_MS
                                                                  : 0;
        if (result == 0 || error != EADDRINUSE || waited == patience)
            break;
        wait_a_millisecond();
    }
    if (result == 0 && has_way_been_given)
        /* What has gone, or stands there, did so for a listener that was closed: at once again. */
        socket_will_listen(fd);
    errno = error;
    return result;
}

static int is_connected(int fd) {
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    return getpeername(fd, (struct sockaddr *)&peer, &length) == 0;
}

enum synergy_mark socket_is_met(int fd, enum encounter encounter) {
    enum transport transport = transport_of(fd);
    if (transport == NEITHER) {
        if (errno == EBADF)
            return SYNERGY_UNKNOWN;
        set_mark(fd, SYNERGY_UNTOUCHED);
        return SYNERGY_UNTOUCHED;
    }
    uint16_t port = port_of(fd);
    int waits = transport == UDP ? port != 0 : option(fd, SO_ACCEPTCONN) == 1;
    if (!waits) {
        if (transport != UDP && encounter == RECEIVES)
            set_mark(fd, SYNERGY_UNTOUCHED);
        return mark_of(fd);
    }
    struct identity identity;
    if (!process_is_own() || !identify(fd, &identity))
        return SYNERGY_UNKNOWN;
    int is_client = transport == UDP && is_connected(fd);
    if (known_keeper(&identity) == NO_KEEPER) {
        struct synergy_answer answer = {0};
        int keeper = met_keeper(fd, &identity, &answer);
        if (keeper != NO_KEEPER) {
            struct descriptor met = {.mark = (enum synergy_mark)answer.mark,
                                     .keeper = (unsigned)keeper,
                                     .cookie = identity.cookie};
            set_descriptor(fd, met);
            return met.mark;
        }
        if (is_client) {
            set_mark(fd, SYNERGY_UNTOUCHED);
            return SYNERGY_UNTOUCHED;
        }
    }
    open_socket(fd, transport, port, transport == UDP && encounter == RECEIVES);
    return mark_of(fd);
}

static void meet(int fd) {
    struct stat status;
    if (mark_of(fd) == SYNERGY_UNKNOWN && fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode))
        socket_is_met(fd, FOUND);
}

/* As getdents64(2) has it. */
struct entry {
    uint64_t inode;
    int64_t offset;
    unsigned short size;
    unsigned char type;
    char name[];
};

static int number_of(const char *name) {
    int number = -1;
    for (; *name >= '0' && *name <= '9'; name++)
        number = (number < 0 ? 0 : number) * 10 + (*name - '0');
    return number;
}

static void for_each_descriptor(void (*visit)(int)) {
    enum { FEW = 1024 };
    /* (Not `self`: its first thread may have ended.) */
    int directory = (int)syscall(SYS_openat, AT_FDCWD, "/proc/thread-self/fd",
                                 O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
        for (int fd = 0; fd < FEW; fd++)
            visit(fd);
        return;
    }
    _Alignas(struct entry) char entries[1024];
    long size;
    while ((size = syscall(SYS_getdents64, directory, entries, sizeof entries)) > 0)
        for (long at = 0; at < size;) {
            const struct entry *entry = (const struct entry *)(entries + at);
            int fd = number_of(entry->name);
            if (fd >= 0 && fd != directory)
                visit(fd);
            at += entry->size;
        }
    syscall(SYS_close, directory);
    forget_descriptor(directory);
}

void take_stock(void) {
    for_each_descriptor(meet);
}

static void be_ready_for(int fd) {
    struct stat status;
    struct identity identity;
    if (mark_of(fd) != SYNERGY_UNKNOWN || fstat(fd, &status) != 0 || !S_ISSOCK(status.st_mode) ||
        transport_of(fd) == NEITHER || port_of(fd) != 0)
        return;
    int domain = option(fd, SO_DOMAIN);
    if ((domain == AF_INET || domain == AF_INET6) && identify(fd, &identity))
        needed_keeper(&identity, RIGHTS_GO, -1, 0);
}

void be_ready_for_another_user(void) {
    for_each_descriptor(be_ready_for);
}

/* Whether the descriptor is still what was noted of it, and goes on through exec. */
static int is_passed_on(int fd, struct descriptor descriptor) {
    struct identity identity;
    int flags = (int)syscall(SYS_fcntl, fd, F_GETFD);
    return flags >= 0 && !(flags & FD_CLOEXEC) && identify(fd, &identity) &&
           identity.cookie == descriptor.cookie;
}

static void executed_without_library(int keeper, uint64_t cookie) {
    struct synergy_request request = {.kind = SYNERGY_EXECUTED_WITHOUT, .cookie = cookie};
    if (keeper != NO_KEEPER && !synergy_is_over(keeper_page(keeper)))
        ask_keeper(keeper, &request, -1, NULL);
}

void program_is_executed(char *const environment[]) {
    /* (The loader trusts nothing in it then.) */
    if (getuid() != geteuid() || getgid() != getegid()) {
        struct identity own = {.owner = geteuid()};
        executed_without_library(needed_keeper(&own, RIGHTS_GO, -1, 0), 0);
        return;
    }
    if (readable_bytes(environment, sizeof *environment) != sizeof *environment ||
        is_library_in(environment))
        return;
    for (int fd = 0, last = __atomic_load_n(&last_descriptor, __ATOMIC_RELAXED); fd <= last; fd++) {
        struct descriptor descriptor = descriptor_of(fd);
        if (is_ours(descriptor.mark) && is_passed_on(fd, descriptor))
            executed_without_library((int)descriptor.keeper, descriptor.cookie);
    }
}

void socket_is_shut_down(int fd) {
    struct descriptor descriptor = forget_descriptor(fd);
    struct synergy_request request = {.kind = SYNERGY_CLOSED, .cookie = descriptor.cookie};
    struct synergy_answer answer;
    if (is_ours(descriptor.mark) && !synergy_is_over(keeper_page((int)descriptor.keeper)))
        ask_keeper((int)descriptor.keeper, &request, fd, &answer);
}

void socket_is_closed(const struct descriptor *descriptor) {
    tell(descriptor->keeper, SYNERGY_CLOSED, descriptor->cookie);
}

void sockets_are_closed(unsigned first, unsigned last) {
    unsigned known = (unsigned)(__atomic_load_n(&last_descriptor, __ATOMIC_RELAXED) + 1),
             concerned = 0;
    if (!process_is_own())
        return;
    for (unsigned fd = first; fd <= last && fd < known; fd++) {
        struct descriptor descriptor = forget_descriptor((int)fd);
        if (is_ours(descriptor.mark))
            concerned |= 1U << descriptor.keeper;
    }
    for (unsigned keeper = 0; keeper < KEEPERS; keeper++)
        if (concerned & 1U << keeper)
            tell(keeper, SYNERGY_GIVE_WAY, 0);
}

int open_toward(int fd, const union synergy_endpoint *peer, int hop_limit) {
    struct identity identity;
    enum transport transport = transport_of(fd);
    if (transport == NEITHER) {
        int domain = option(fd, SO_DOMAIN);
        return domain == AF_INET || domain == AF_INET6 ? EOPNOTSUPP
               : domain >= 0                           ? EAFNOSUPPORT
                                                       : errno;
    }
    if (!identify(fd, &identity))
        return errno;
    int keeper = needed_keeper(&identity, IS_ASKED, -1, 0);
    if (keeper == NO_KEEPER)
        return ELIBACC;
    struct synergy_request request = {
        .kind = SYNERGY_OPEN_TOWARD, .flags = flags_of(fd), .hop_limit = hop_limit, .peer = *peer};
    if (transport != UDP && option(fd, SO_ACCEPTCONN) == 1 && !is_one_to_many(fd, transport))
        admit_others(fd);
    return hand_over(fd, &identity, keeper, &request);
}

void hand_over_again(int keeper) {
    int last = __atomic_load_n(&last_descriptor, __ATOMIC_RELAXED);
    int is_over = synergy_is_over(keeper_page(keeper));
    for (int fd = 0; fd <= last; fd++) {
        struct descriptor descriptor = descriptor_of(fd);
        struct identity identity;
        if (!is_ours(descriptor.mark) || descriptor.keeper != (unsigned)keeper)
            continue;
        struct synergy_request request = {.kind = SYNERGY_OPEN,
                                          .hop_limit = SYNERGY_AUTOMATIC_HOPS};
        if (!is_over && identify(fd, &identity) && identity.cookie == descriptor.cookie)
            hand_over(fd, &identity, keeper, &request);
        else
            forget_descriptor(fd);
    }
}
