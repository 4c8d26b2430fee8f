#include "keepers.h"

#include "aside.h"
#include "exchange.h"
#include "filters.h"
#include "keeper_start.h"
#include "left_out.h"
#include "libc_calls.h"
#include "process.h"
#include "server_sockets.h"
#include "settings_look.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

struct synergy_page *keeper_pages[KEEPERS];
const uint32_t *stirring = &left_out_port;

/* No keeper is to be had by this process before that second: not tried again for each call. */
#define NEVER UINT32_MAX
static uint32_t not_tried_before;

static int is_given_up(void) {
    uint32_t second = __atomic_load_n(&not_tried_before, __ATOMIC_RELAXED);
    return second == NEVER || (second != 0 && seconds_now() < second);
}

static void give_up_until(uint32_t second) {
    __atomic_store_n(&not_tried_before, second, __ATOMIC_RELAXED);
}

/* When it is worth while to start another one, since one that was started has not answered for this
 * reason. What was killed need not be so the next time, and costs little; each that is silent costs
 * two seconds. */
static uint32_t worth_while_after(int error) {
    enum { TRIES = 3, REST = 10 };
    static int killed;
    switch (error) {
    case EMFILE:
        return 0;
    case EPIPE:
    case ECONNRESET:
        if (__atomic_add_fetch(&killed, 1, __ATOMIC_RELAXED) < TRIES)
            return 0;
        return seconds_now() + REST;
    case ETIMEDOUT:
        return seconds_now() + REST;
    default:
        return NEVER;
    }
}

void complain(const char *what, int error) {
    SAY("synergy: error: nothing is punched: ", what, error ? ": " : "",
        error ? error_text(error) : "");
}

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

int is_in_network(uint64_t network) {
    struct identity own = {.network = network};
    int fd = (int)kernel(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        identify(fd, &own);
        kernel(SYS_close, fd);
    }
    return own.network == network;
}

int look_up_keeper(const struct identity *identity) {
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

/* Maps a page, at `place` if that is not NULL. NULL and errno. */
static struct synergy_page *map_page(int memory, void *place) {
    /* It must not be cut off under our feet. */
    int seals = (int)kernel(SYS_fcntl, memory, F_GET_SEALS);
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
static int take_up_page(int memory) {
    struct synergy_page *page = map_page(memory, NULL);
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
                   (synergy_is_over(known) && map_page(memory, known))) {
            keeper = i;
        }
    }
    if (page)
        munmap(page, sizeof *page);
    kernel(SYS_close, memory);
    return keeper;
}

static int ask_keeper_of(const struct identity *identity, struct synergy_request *request, int pass,
                         struct synergy_answer *answer, int *received) {
    struct synergy_address address = {0};
    synergy_name_of(identity->cookie, &address);
    return ask_keeper_at(&address, identity->owner, request, pass, answer, received);
}

int find_keeper_of(int fd, const struct identity *identity, struct synergy_answer *answer) {
    struct synergy_request request = {.kind = SYNERGY_MEET, .cookie = identity->cookie, .fd = fd};
    int memory = -1;
    if (ask_keeper_of(identity, &request, fd, answer, &memory) != 0 || memory < 0)
        return NO_KEEPER;
    if (answer->result == 0)
        return take_up_page(memory);
    kernel(SYS_close, memory);
    return NO_KEEPER;
}

/* Asks the keeper of a server that has ended a moment ago, and has left its holes open for whoever
 * listens at this TCP port next, to be this process's. NO_KEEPER: there is none, or it refuses. */
static int adopt_keeper(int bound, uint16_t port) {
    struct synergy_request request = {
        .kind = SYNERGY_ADOPT,
        .cookie = synergy_circumstances(keeper_environment(), STDERR_FILENO)};
    struct synergy_address address = {0};
    struct synergy_answer answer = {0};
    struct owner owner;
    int memory = -1, error = EPERM;
    synergy_port_name(SYNERGY_TCP, port, &address);
    int connection = connect_to(&address, PERHAPS_STRANGERS, &owner);
    if (connection < 0)
        return NO_KEEPER;
    if (is_trusted(&owner, geteuid()))
        error = send_and_receive(connection, &request, bound, &answer, &memory);
    kernel(SYS_close, connection);
    if (error == 0 && answer.result == 0 && memory >= 0 && owner.user == geteuid())
        return take_up_page(memory);
    if (memory >= 0)
        kernel(SYS_close, memory);
    return NO_KEEPER;
}

void have_others_give_way(int keeper, int transport, uint16_t port) {
    struct synergy_request request = {.kind = SYNERGY_GIVE_WAY, .cookie = port};
    struct synergy_address address = {0};
    struct synergy_answer answer;
    struct owner owner;
    synergy_port_name(transport, port, &address);
    int connection = connect_to(&address, PERHAPS_STRANGERS, &owner);
    if (connection < 0)
        return;
    /* (0: of a process namespace that is not seen from this one.) */
    if (owner.process != 0 && owner.process != keeper_page(keeper)->keeper.process &&
        is_trusted(&owner, geteuid()))
        send_and_receive(connection, &request, -1, &answer, NULL);
    kernel(SYS_close, connection);
}

/* Starts a keeper, waits until it is ready, and maps its page: at `place`, or if that is NULL
 * wherever. NO_KEEPER: said why. Only by who has starting_begin(). */
static int start_keeper_at(enum cause cause, uid_t owner, struct synergy_page *place) {
    const char *why;
    int connection = start_keeper(cause, owner, &why);
    if (connection < 0) {
        /* What is short now may be had later. */
        int is_short = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == EAGAIN;
        give_up_until(is_short ? 0 : NEVER);
        char line[64] = "synergy-keeper ";
        COMPLAIN_ONCE(strncat(line, why, sizeof line - sizeof "synergy-keeper "), errno);
        return NO_KEEPER;
    }
    be_patient(connection);
    struct synergy_answer answer = {0};
    int memory = -1, keeper = NO_KEEPER;
    int error = receive_answer(connection, &answer, &memory);
    /* A keeper that refuses has said why. */
    int is_said = error == 0 && answer.result != 0;
    if (error == 0)
        error = answer.result;
    if (error == 0 && memory < 0)
        error = EMFILE;
    if (error == 0 && place) {
        keeper = map_page(memory, place) ? 0 : NO_KEEPER;
        error = keeper == NO_KEEPER ? errno : 0;
        kernel(SYS_close, memory);
    } else if (error == 0) {
        keeper = take_up_page(memory);
        error = keeper == NO_KEEPER ? EMFILE : 0;
    }
    kernel(SYS_close, connection);
    if (error == 0)
        return keeper;
    give_up_until(is_said ? NEVER : worth_while_after(error));
    if (error == ENOENT && !knows_keepers())
        stop_caring();
    else if (!is_said)
        COMPLAIN_ONCE("synergy-keeper does not answer", error);
    return NO_KEEPER;
}

/* Whether a keeper that this process starts can be this user. */
static int may_be_user(uid_t user) {
    uid_t real, effective, saved;
    return getresuid(&real, &effective, &saved) != 0 || effective == 0 || real == user ||
           effective == user || saved == user;
}

/* A keeper that can't be the owner is this user's, who can say why nothing is punched: one
 * suffices. */
static struct identity within_reach(const struct identity *identity) {
    struct identity reached = *identity;
    if (!may_be_user(identity->owner))
        reached.owner = geteuid();
    return reached;
}

/* Whether there is a number for one more. (A keeper that finds none would be there for nothing, and
 * another one for each further socket.) */
static int is_room_for_another(void) {
    for (int i = 0; i < KEEPERS; i++)
        if (!keeper_page(i) || synergy_is_over(keeper_page(i)))
            return 1;
    _Static_assert(KEEPERS == 8, "as the line has it");
    COMPLAIN_ONCE("this process has 8 keepers, which is the most, one for each user and network "
                  "namespace of its sockets",
                  0);
    return 0;
}

int obtain_keeper(const struct identity *socket, enum cause cause, int bound, uint16_t tcp_port) {
    struct identity reached = *socket, *identity = &reached;
    if (look_up_keeper(socket) == NO_KEEPER && may_begin())
        reached = within_reach(socket);
    int keeper = look_up_keeper(identity);
    if (keeper == NO_KEEPER && cause == SOCKET_IS_THERE && !is_given_up() && !may_begin())
        COMPLAIN_ONCE("a system call filter that this process has given itself forbids what starts "
                      "synergy-keeper",
                      0);
    if (keeper != NO_KEEPER || (is_given_up() && cause != IS_ASKED) || !may_begin() ||
        !is_room_for_another() || !starting_begin())
        return keeper;
    /* Another thread may have been first. */
    keeper = look_up_keeper(identity);
    if (keeper == NO_KEEPER && tcp_port != 0 && adopt_keeper(bound, tcp_port) != NO_KEEPER)
        keeper = look_up_keeper(identity);
    if (keeper == NO_KEEPER && (!is_given_up() || cause == IS_ASKED))
        keeper = start_keeper_at(cause, identity->owner, NULL);
    starting_end();
    return keeper;
}

static int is_any_keeper_free(void) {
    for (int i = 0; i < KEEPERS && keeper_page(i); i++)
        if (!synergy_is_over(keeper_page(i)) &&
            __atomic_load_n(&keeper_page(i)->suits_any_user, __ATOMIC_ACQUIRE))
            return 1;
    return 0;
}

void obtain_free_keeper(void) {
    struct identity own = {.owner = geteuid()};
    if (own.owner != 0) {
        obtain_keeper(&own, RIGHTS_GO, -1, 0); /* it can be no other user's */
        return;
    }
    if (is_given_up() || is_any_keeper_free() || !is_room_for_another() || !starting_begin())
        return;
    if (!is_any_keeper_free())
        start_keeper_at(RIGHTS_GO, geteuid(), NULL);
    starting_end();
}

/* To the standby of a killed keeper, which is who it has to be: a server that has given its rights
 * up can't start one that may bind beside its listeners. */
static int is_left_to_standby(const struct synergy_page *page) {
    uint32_t standby = __atomic_load_n(&page->standby, __ATOMIC_ACQUIRE);
    return standby != 0 && !(standby & SYNERGY_HOLDER_DIED) && !may_be_user(page->user);
}

/* Keeps the standby of a killed keeper (src/keeper/standby.h) from taking its place, from now on.
 * False: it has taken it already. */
static int forestall_standby(struct synergy_page *page) {
    uint32_t holder = SYNERGY_HOLDER_DIED;
    return __atomic_compare_exchange_n(&page->holder, &holder, SYNERGY_HOLDER_DIED | 1, 0,
                                       __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE) ||
           holder == 0 || (holder & SYNERGY_HOLDER_DIED);
}

void replace_keeper(int keeper) {
    struct synergy_page *page = keeper_page(keeper);
    struct synergy_secret secret = page->secret;
    struct synergy_bell_mark bells = page->bells;
    if (is_left_to_standby(page) || !starting_begin())
        return;
    /* Another thread may have been first. */
    int is_ours_to_do =
        memcmp(&secret, &page->secret, sizeof secret) == 0 && forestall_standby(page);
    if (is_ours_to_do) {
        /* By the first of all processes that have the page. */
        if (!__atomic_exchange_n(&page->over, 1, __ATOMIC_ACQ_REL))
            SAY("synergy: warning: the keeper has been killed: another one takes its place");
        synergy_set_over(page);
        if (!is_given_up() && may_begin())
            start_keeper_at(
                __atomic_load_n(&page->asks_for_all, __ATOMIC_RELAXED) ? IS_ASKED : SOCKET_IS_THERE,
                page->user, page);
        page->bells_before = bells;
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
