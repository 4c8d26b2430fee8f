#include "keeper_client.h"

#include "aside.h"
#include "filters.h"
#include "keeper_start.h"
#include "libc_calls.h"
#include "process.h"
#include "server_sockets.h"
#include "settings_look.h"

#include <asm/socket.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
/* The one that takes a `struct timeval` of longs, on every system. */
#ifndef SO_RCVTIMEO_OLD
#define SO_RCVTIMEO_OLD SO_RCVTIMEO
#define SO_SNDTIMEO_OLD SO_SNDTIMEO
#endif

struct synergy_page *keeper_pages[KEEPERS];
const uint32_t *stirring = &left_out_port;

/* No keeper is to be had by this process: not tried again for each call. */
static int is_given_up;

static void complain(const char *what, int error) {
    SAY("synergy: error: nothing is punched: ", what, error ? ": " : "",
        error ? error_text(error) : "");
}

/* For each reason once, in the life of the process. */
#define COMPLAIN_ONCE(what, error)                                                                 \
    do {                                                                                           \
        static int is_said;                                                                        \
        if (!__atomic_exchange_n(&is_said, 1, __ATOMIC_RELAXED))                                   \
            complain(what, error);                                                                 \
    } while (0)

int identify(int fd, struct identity *identity) {
    struct stat status;
    socklen_t length = sizeof identity->cookie;
    if (fstat(fd, &status) != 0 ||
        libc.getsockopt(fd, SOL_SOCKET, SO_COOKIE, &identity->cookie, &length) != 0)
        return 0;
    identity->owner = status.st_uid;
    length = sizeof identity->network;
    if (libc.getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &identity->network, &length) != 0)
        identity->network = 0;
    return 1;
}

int known_keeper(const struct identity *identity) {
    for (int i = 0; i < KEEPERS && keeper_page(i); i++) {
        struct synergy_page *page = keeper_page(i);
        if (!synergy_is_over(page) &&
            (__atomic_load_n(&page->user, __ATOMIC_ACQUIRE) == identity->owner ||
             __atomic_load_n(&page->suits_any_user, __ATOMIC_ACQUIRE)) &&
            (page->network == 0 || identity->network == 0 || page->network == identity->network))
            return i;
    }
    return NO_KEEPER;
}

/* Whoever sits at the other end of a Unix socket. */
struct owner {
    pid_t process;
    uid_t user;
    gid_t group;
};

/* -1 and errno. */
static int connect_to(const struct synergy_address *address, struct owner *owner) {
    int fd = (int)syscall(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    static const struct { long seconds, micros; } patience = {.seconds = 2};
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    size_t size = address->length < sizeof address->name ? address->length : sizeof address->name;
    memcpy(name.sun_path + 1, address->name, size);
    socklen_t length = sizeof *owner;
    syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO_OLD, &patience, sizeof patience);
    syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_RCVTIMEO_OLD, &patience, sizeof patience);
    if (syscall(SYS_connect, fd, &name, offsetof(struct sockaddr_un, sun_path) + 1 + size) == 0 &&
        syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_PEERCRED, owner, &length) == 0)
        return fd;
    /* (unix(7): EAGAIN where nobody has taken up the waiting ones in that time.) */
    int error = errno == EAGAIN ? ETIMEDOUT : errno;
    syscall(SYS_close, fd);
    errno = error;
    return -1;
}

/* The connection is used up. 0, or an errno. */
static int send_request(int connection, struct synergy_request *request, int pass) {
    request->version = SYNERGY_WIRE_VERSION;
    struct iovec data = {.iov_base = request, .iov_len = sizeof *request};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof pass)] = {0};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (pass >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *extra = CMSG_FIRSTHDR(&message);
        extra->cmsg_level = SOL_SOCKET;
        extra->cmsg_type = SCM_RIGHTS;
        extra->cmsg_len = CMSG_LEN(sizeof pass);
        memcpy(CMSG_DATA(extra), &pass, sizeof pass);
    }
    /* (unix(7): ETOOMANYREFS where all processes of this user together have more descriptors on
     * their way than this one may have open.) */
    enum { PATIENCE_MS = 1000 };
    for (int waited = 0; syscall(SYS_sendmsg, connection, &message, MSG_NOSIGNAL) < 0; waited++) {
        if (errno != ETOOMANYREFS || waited == PATIENCE_MS)
            return errno;
        wait_a_millisecond();
    }
    return 0;
}

/* 0, or an errno: EPIPE where the other end is gone. With MSG_PEEK in `flags` the answer stays in
 * the queue, and what came along with it too. */
static int receive_answer(int connection, struct synergy_answer *answer, int *received, int flags,
                          int *is_cut_off) {
    struct iovec data = {.iov_base = answer, .iov_len = sizeof *answer};
    /* Room for one descriptor exactly. */
    _Alignas(struct cmsghdr) char control[CMSG_LEN(sizeof *received)];
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (received) {
        *received = -1;
        message.msg_control = control;
        message.msg_controllen = sizeof control;
    }
    ssize_t size = syscall(SYS_recvmsg, connection, &message, MSG_CMSG_CLOEXEC | flags);
    if (is_cut_off)
        *is_cut_off = size >= 0 && (message.msg_flags & MSG_CTRUNC) != 0;
    if (size < 0)
        return errno == EAGAIN ? ETIMEDOUT : errno;
    struct cmsghdr *extra = received ? CMSG_FIRSTHDR(&message) : NULL;
    if (extra && extra->cmsg_level == SOL_SOCKET && extra->cmsg_type == SCM_RIGHTS &&
        extra->cmsg_len == CMSG_LEN(sizeof *received))
        memcpy(received, CMSG_DATA(extra), sizeof *received);
    if (size == sizeof *answer && answer->version == SYNERGY_WIRE_VERSION)
        return 0;
    if (received && *received >= 0) {
        syscall(SYS_close, *received);
        *received = -1;
    }
    return size == 0 ? EPIPE : EPROTO;
}

/* Maps a page, at `place` if that is not NULL. NULL and errno. */
static struct synergy_page *mapped(int memory, void *place) {
    /* It must not be cut off under our feet. */
    int seals = (int)syscall(SYS_fcntl, memory, F_GET_SEALS);
    struct stat status;
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(memory, &status) != 0 ||
        (size_t)status.st_size < sizeof(struct synergy_page)) {
        errno = EPROTO;
        return NULL;
    }
    struct synergy_page *page = mmap(place, sizeof *page, PROT_READ | PROT_WRITE,
                                     MAP_SHARED | (place ? MAP_FIXED : 0), memory, 0);
    return page == MAP_FAILED ? NULL : page;
}

static int is_same_keeper(const struct synergy_page *one, const struct synergy_page *other) {
    return one->keeper.process == other->keeper.process &&
           memcmp(&one->secret, &other->secret, sizeof one->secret) == 0;
}

/* Takes a page up: at the number of the same keeper, of one that has ended, or at the next one.
 * NO_KEEPER if there are too many. The descriptor is used up. */
static int take_up(int memory) {
    struct synergy_page *page = mapped(memory, NULL);
    int keeper = NO_KEEPER;
    for (int i = 0; page && keeper == NO_KEEPER && i < KEEPERS; i++) {
        struct synergy_page *known = NULL;
        if (__atomic_compare_exchange_n(&keeper_pages[i], &known, page, 0, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            static const uint32_t always = 1;
            __atomic_store_n(&stirring, i == 0 ? &page->ringing : &always, __ATOMIC_RELEASE);
            page = NULL; /* stays */
            keeper = i;
        } else if (is_same_keeper(known, page) ||
                   (synergy_is_over(known) && mapped(memory, known))) {
            keeper = i;
        }
    }
    if (page)
        munmap(page, sizeof *page);
    syscall(SYS_close, memory);
    return keeper;
}

/* Sends the request, and takes what comes back by the connection. What comes back must find a free
 * number, or it is gone: one is held for it. */
static int send_and_receive(int connection, struct synergy_request *request, int pass,
                            struct synergy_answer *answer, int *received) {
    int held = received ? (int)syscall(SYS_fcntl, connection, F_DUPFD_CLOEXEC, 0) : -1;
    int error = received && held < 0 ? errno : send_request(connection, request, pass);
    if (held >= 0)
        syscall(SYS_close, held);
    return error == 0 && answer ? receive_answer(connection, answer, received, 0, NULL) : error;
}

/* Whether a keeper is `owner`'s, ours or root's: nobody else's page is to be looked into, and
 * nobody else's connections to be had. */
static int is_trusted(const struct owner *keeper, uid_t owner) {
    return keeper->user == 0 || keeper->user == geteuid() || keeper->user == owner;
}

/* Asks the keeper of this name, if that is to be trusted. */
static int ask_keeper_at(const struct synergy_address *address, uid_t owner,
                         struct synergy_request *request, int pass, struct synergy_answer *answer,
                         int *received) {
    struct owner found;
    int connection = connect_to(address, &found);
    if (connection < 0)
        return errno;
    int error = is_trusted(&found, owner)
                    ? send_and_receive(connection, request, pass, answer, received)
                    : EPERM;
    syscall(SYS_close, connection);
    return error;
}

static int ask_keeper_of(const struct identity *identity, struct synergy_request *request, int pass,
                         struct synergy_answer *answer, int *received) {
    struct synergy_address address = {0};
    synergy_name_of(identity->cookie, &address);
    return ask_keeper_at(&address, identity->owner, request, pass, answer, received);
}

int ask_who_has_port(int transport, uint16_t port, struct synergy_request *request, int pass,
                     struct synergy_answer *answer) {
    struct synergy_address address = {0};
    synergy_port_name(transport, port, &address);
    return ask_keeper_at(&address, geteuid(), request, pass, answer, NULL);
}

int met_keeper(int fd, const struct identity *identity, struct synergy_answer *answer) {
    struct synergy_request request = {.kind = SYNERGY_MEET, .cookie = identity->cookie, .fd = fd};
    int memory = -1;
    if (ask_keeper_of(identity, &request, fd, answer, &memory) != 0 || memory < 0)
        return NO_KEEPER;
    if (answer->result == 0)
        return take_up(memory);
    syscall(SYS_close, memory);
    return NO_KEEPER;
}

/* The keeper of a server that has ended a moment ago, and has left its holes open for whoever
 * listens at this TCP port next. */
static int adopted_keeper(int bound, uint16_t port) {
    struct synergy_request request = {
        .kind = SYNERGY_ADOPT,
        .cookie = synergy_circumstances(keeper_environment(), STDERR_FILENO)};
    struct synergy_address address = {0};
    struct synergy_answer answer = {0};
    struct owner owner;
    int memory = -1, error = EPERM;
    synergy_port_name(0, port, &address); /* TCP, as in ports[] */
    int connection = connect_to(&address, &owner);
    if (connection < 0)
        return NO_KEEPER;
    if (is_trusted(&owner, geteuid()))
        error = send_and_receive(connection, &request, bound, &answer, &memory);
    syscall(SYS_close, connection);
    if (error == 0 && answer.result == 0 && memory >= 0 && owner.user == geteuid())
        return take_up(memory);
    if (memory >= 0)
        syscall(SYS_close, memory);
    return NO_KEEPER;
}

/* Has a keeper started, and its page mapped (at `place`, or anew). Only by who has
 * starting_begin(). */
static int started_keeper(enum cause cause, uid_t owner, struct synergy_page *place) {
    const char *why;
    int connection = start_keeper(cause, owner, &why);
    if (connection < 0) {
        /* What is short now may be had later. */
        int is_short = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == EAGAIN;
        is_given_up = !is_short;
        char line[64] = "synergy-keeper ";
        COMPLAIN_ONCE(strncat(line, why, sizeof line - sizeof "synergy-keeper "), errno);
        return NO_KEEPER;
    }
    static const struct { long seconds, micros; } patience = {.seconds = 2};
    syscall(SYS_setsockopt, connection, SOL_SOCKET, SO_RCVTIMEO_OLD, &patience, sizeof patience);
    struct synergy_answer answer = {0};
    int memory = -1, keeper = NO_KEEPER;
    int error = receive_answer(connection, &answer, &memory, 0, NULL);
    /* A keeper that refuses has said why. */
    int is_said = error == 0 && answer.result != 0;
    if (error == 0)
        error = answer.result;
    if (error == 0 && memory < 0)
        error = EMFILE;
    if (error == 0 && place) {
        keeper = mapped(memory, place) ? 0 : NO_KEEPER;
        error = keeper == NO_KEEPER ? errno : 0;
        syscall(SYS_close, memory);
    } else if (error == 0) {
        keeper = take_up(memory);
        error = keeper == NO_KEEPER ? EMFILE : 0;
    }
    syscall(SYS_close, connection);
    if (error == 0)
        return keeper;
    is_given_up = error != EMFILE;
    if (error == ENOENT && !knows_keepers())
        stop_caring();
    else if (!is_said)
        COMPLAIN_ONCE("synergy-keeper does not answer", error);
    return NO_KEEPER;
}

/* A keeper that can't be the owner is this user's, who can say why nothing is punched: one
 * suffices. */
static struct identity within_reach(const struct identity *identity) {
    struct identity reached = *identity;
    uid_t real, effective, saved;
    if (getresuid(&real, &effective, &saved) == 0 && effective != 0 && real != identity->owner &&
        effective != identity->owner && saved != identity->owner)
        reached.owner = effective;
    return reached;
}

int needed_keeper(const struct identity *socket, enum cause cause, int bound, uint16_t tcp_port) {
    struct identity reached = *socket, *identity = &reached;
    if (known_keeper(socket) == NO_KEEPER)
        reached = within_reach(socket);
    int keeper = known_keeper(identity);
    if (keeper != NO_KEEPER || (is_given_up && cause != IS_ASKED) || !may_begin() ||
        !starting_begin())
        return keeper;
    /* Another thread may have been first. */
    keeper = known_keeper(identity);
    if (keeper == NO_KEEPER && tcp_port != 0 && adopted_keeper(bound, tcp_port) != NO_KEEPER)
        keeper = known_keeper(identity);
    if (keeper == NO_KEEPER && (!is_given_up || cause == IS_ASKED))
        keeper = started_keeper(cause, identity->owner, NULL);
    starting_end();
    return keeper;
}

static int is_any_free(void) {
    for (int i = 0; i < KEEPERS && keeper_page(i); i++)
        if (!synergy_is_over(keeper_page(i)) &&
            __atomic_load_n(&keeper_page(i)->suits_any_user, __ATOMIC_ACQUIRE))
            return 1;
    return 0;
}

void have_free_keeper(void) {
    struct identity own = {.owner = geteuid()};
    if (own.owner != 0) {
        needed_keeper(&own, RIGHTS_GO, -1, 0); /* it can be no other user's */
        return;
    }
    if (is_given_up || is_any_free() || !starting_begin())
        return;
    if (!is_any_free())
        started_keeper(RIGHTS_GO, geteuid(), NULL);
    starting_end();
}

void replace_keeper(int keeper) {
    static int is_said;
    struct synergy_page *page = keeper_page(keeper);
    struct synergy_secret secret = page->secret;
    if (!starting_begin())
        return;
    /* Another thread may have been first. */
    int is_ours_to_do = memcmp(&secret, &page->secret, sizeof secret) == 0;
    if (is_ours_to_do) {
        if (!__atomic_load_n(&page->over, __ATOMIC_ACQUIRE) &&
            !__atomic_exchange_n(&is_said, 1, __ATOMIC_RELAXED))
            SAY("synergy: warning: the keeper has been killed: another one takes its place");
        synergy_set_over(page);
        if (!is_given_up && may_begin())
            started_keeper(__atomic_load_n(&page->asks_for_all, __ATOMIC_RELAXED) ? IS_ASKED
                                                                                  : SOCKET_IS_THERE,
                           page->user, page);
    }
    starting_end();
    if (is_ours_to_do)
        hand_over_again(keeper);
}

void note_stderr(void) {
    enum { MEMORY = 1, NOTHING_AT_ALL = 3 }; /* null(4) */
    struct stat status;
    if (fstat(STDERR_FILENO, &status) != 0 || !S_ISCHR(status.st_mode) ||
        status.st_rdev != makedev(MEMORY, NOTHING_AT_ALL))
        return;
    for (int i = 0; i < KEEPERS && keeper_page(i); i++)
        __atomic_store_n(&keeper_page(i)->silent, getpid(), __ATOMIC_RELEASE);
}

void note_leaving(void) {
    for (int i = 0; i < KEEPERS && keeper_page(i); i++)
        __atomic_store_n(&keeper_page(i)->leaving, getpid(), __ATOMIC_RELEASE);
}

/* A connection to the page's keeper, and the secret for it; -1 and errno. */
static int connect_to_keeper(const struct synergy_page *page, struct synergy_request *request) {
    struct owner owner;
    int connection = connect_to(&page->keeper, &owner);
    if (connection < 0)
        return -1;
    /* The name may be another's by now, who must not learn the secret. (From another process
     * namespace the keeper has another number, or none.) */
    if (owner.process == page->keeper.process || owner.user == page->user ||
        (owner.process == 0 && owner.user == geteuid())) {
        request->secret = page->secret;
        return connection;
    }
    syscall(SYS_close, connection);
    errno = ECONNREFUSED;
    return -1;
}

/* Without `answer` none is awaited. */
static int exchange(const struct synergy_page *page, struct synergy_request *request, int pass,
                    struct synergy_answer *answer) {
    int connection = connect_to_keeper(page, request);
    if (connection < 0)
        return errno;
    int error = send_request(connection, request, pass);
    if (error == 0 && answer)
        error = receive_answer(connection, answer, NULL, 0, NULL);
    syscall(SYS_close, connection);
    return error;
}

/* What comes back must find a free number, or it is gone. So it stays in the queue until it has
 * one: the bell's, if there is no other, or whichever is next where another thread takes that. */
static int receive_fetched(int connection, int *bell, struct synergy_answer *answer,
                           int *received) {
    enum { PATIENCE_MS = 1000 };
    int error, is_cut_off;
    for (int waited = 0;; waited++) {
        error = receive_answer(connection, answer, received, MSG_PEEK, &is_cut_off);
        if (error != 0 || *received >= 0 || !is_cut_off || waited == PATIENCE_MS)
            break;
        if (*bell >= 0) {
            syscall(SYS_close, *bell);
            *bell = -1;
        } else {
            wait_a_millisecond();
        }
    }
    if (error == 0)
        error = receive_answer(connection, answer, NULL, 0, NULL);
    return error;
}

static int fetch(const struct synergy_page *page, struct synergy_request *request, int *bell,
                 struct synergy_answer *answer, int *received) {
    int connection = connect_to_keeper(page, request);
    if (connection < 0)
        return errno;
    int error = send_request(connection, request, *bell);
    if (error == 0)
        error = receive_fetched(connection, bell, answer, received);
    syscall(SYS_close, connection);
    return error;
}

int fetch_from_who_keeps(int listener, struct synergy_request *request, int *bell,
                         struct synergy_answer *answer, int *received) {
    struct identity identity;
    struct owner owner;
    struct synergy_address address = {0};
    *received = -1;
    if (!identify(listener, &identity))
        return errno;
    synergy_name_of(identity.cookie, &address);
    int connection = connect_to(&address, &owner);
    if (connection < 0)
        return errno;
    int error =
        is_trusted(&owner, identity.owner) ? send_request(connection, request, *bell) : EPERM;
    if (error == 0)
        error = receive_fetched(connection, bell, answer, received);
    syscall(SYS_close, connection);
    return error;
}

/* What it means depends on the page: a keeper that lives says so too to who comes from another
 * network namespace, or when it has no descriptor left. */
static int is_gone(const struct synergy_page *page, int error) {
    int tells_of_its_end = __atomic_load_n(&page->holder, __ATOMIC_ACQUIRE) != 0;
    return (error == ECONNREFUSED || error == ECONNRESET || error == EPIPE) &&
           (!tells_of_its_end || synergy_is_over(page));
}

/* A keeper that did not answer is left alone for a while: one that was stopped must not hold up
 * each call of the server's. In seconds of CLOCK_MONOTONIC. */
enum { REST = 10 };
static uint32_t rests_until[KEEPERS];

static uint32_t seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint32_t)now.tv_sec;
}

static int rests(int keeper) {
    return seconds_now() < __atomic_load_n(&rests_until[keeper], __ATOMIC_RELAXED);
}

/* The error, as it was. */
static int noted(int keeper, int error) {
    if (error == ETIMEDOUT)
        __atomic_store_n(&rests_until[keeper], seconds_now() + REST, __ATOMIC_RELAXED);
    return error;
}

static int is_in_network_of(const struct synergy_page *page) {
    struct identity identity = {.network = page->network};
    int fd = (int)syscall(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        identify(fd, &identity);
        syscall(SYS_close, fd);
    }
    return identity.network == page->network;
}

static int exchange_unless_resting(int keeper, struct synergy_request *request, int pass,
                                   struct synergy_answer *answer) {
    if (rests(keeper))
        return ETIMEDOUT;
    note_stderr();
    return noted(keeper, exchange(keeper_page(keeper), request, pass, answer));
}

int ask_keeper(int keeper, struct synergy_request *request, int pass,
               struct synergy_answer *answer) {
    int opens = request->kind == SYNERGY_OPEN || request->kind == SYNERGY_OPEN_TOWARD ||
                request->kind == SYNERGY_PREPARE;
    struct synergy_page *page = keeper_page(keeper);
    int error = exchange_unless_resting(keeper, request, pass, answer);
    if (is_gone(page, error)) {
        replace_keeper(keeper);
        if (opens)
            error = exchange(page, request, pass, answer);
    }
    if (opens && error == ECONNREFUSED && !is_in_network_of(page)) {
        COMPLAIN_ONCE("this process is in another network namespace than its socket", 0);
        return error;
    }
    /* What else could not be asked the keeper finds out by itself, or rings again. */
    if (opens && error != 0) {
        COMPLAIN_ONCE("synergy-keeper can't be asked", error);
    }
    return error;
}

struct fetching {
    const struct synergy_page *page;
    struct synergy_request *request;
    int *bell;
    struct synergy_answer *answer;
    int *received;
    int error;
};

static void fetch_aside(void *argument) {
    struct fetching *fetching = argument;
    fetching->error = fetch(fetching->page, fetching->request, fetching->bell, fetching->answer,
                            fetching->received);
}

/* NOLINTNEXTLINE(readability-non-const-parameter): it is what fetch_aside() changes */
int fetch_from_keeper(int keeper, struct synergy_request *request, int *bell,
                      struct synergy_answer *answer, int *received) {
    struct fetching fetching = {.page = keeper_page(keeper),
                                .request = request,
                                .bell = bell,
                                .answer = answer,
                                .received = received};
    *received = -1;
    if (rests(keeper))
        return ETIMEDOUT;
    fetch_aside(&fetching);
    /* The bell has taken the last number. */
    if (fetching.error == EMFILE && may_begin() && starting_begin()) {
        run_beyond_limit(fetch_aside, &fetching);
        starting_end();
    }
    if (is_gone(fetching.page, fetching.error))
        replace_keeper(keeper);
    return noted(keeper, fetching.error);
}

void keepers_hear_of(pid_t child) {
    for (int i = 0; i < KEEPERS && keeper_page(i); i++) {
        struct synergy_request request = {.kind = SYNERGY_HERE, .process = child};
        if (!synergy_is_over(keeper_page(i)))
            exchange_unless_resting(i, &request, -1, NULL);
    }
}
