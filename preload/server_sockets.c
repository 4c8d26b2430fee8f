#include "server_sockets.h"

#include "address_in_use.h"
#include "keeper_client.h"
#include "left_out.h"
#include "libc_calls.h"
#include "open_descriptors.h"
#include "process.h"
#include "settings_look.h"
#include "socket_look.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

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

/* Here or at the keeper's: what is short now may be had later. */
static int is_shortage(int error) {
    return error == EMFILE || error == ENFILE;
}

static int is_anything_open;

static int is_known_as(struct descriptor descriptor, uint64_t cookie) {
    return is_ours(descriptor.mark) && descriptor.cookie == cookie;
}

/* What is known of the socket, by this number or by another one that stands for it (fcntl(2),
 * F_DUPFD, of which we are not told). */
static struct descriptor known_socket(int fd, uint64_t cookie) {
    struct descriptor known = descriptor_of(fd);
    int last = __atomic_load_n(&last_descriptor, __ATOMIC_RELAXED);
    if (!__atomic_load_n(&is_anything_open, __ATOMIC_RELAXED))
        return known;
    for (int other = 0; other <= last && !is_known_as(known, cookie); other++)
        known = descriptor_of(other);
    return is_known_as(known, cookie) ? known : descriptor_of(fd);
}

struct hiding {
    unsigned options; /* enum hidden_option: not the server's own */
    int is_noted;     /* of this socket, and so complete; or else its keeper may know more */
};

/* Which options are not the server's own, or will not be when they are set. To be asked before. */
static struct hiding hiding_of(int fd, uint64_t cookie) {
    struct descriptor known = known_socket(fd, cookie);
    int is_noted = is_known_as(known, cookie);
    struct hiding hiding = {.options = is_noted ? known.hidden : 0, .is_noted = is_noted};
    if (option_of(fd, SO_REUSEADDR) == 0)
        hiding.options |= HIDDEN_REUSEADDR;
    if (option_of(fd, SO_REUSEPORT) == 0)
        hiding.options |= HIDDEN_REUSEPORT;
    return hiding;
}

/* What the keeper is told of that. */
static int flags_of(unsigned hidden) {
    return (hidden & HIDDEN_REUSEPORT ? 0 : SYNERGY_SHARES) |
           (hidden & HIDDEN_REUSEADDR ? 0 : SYNERGY_LETS_OTHERS_IN);
}

/* The server's own again. */
static void give_options_back(int fd, unsigned hidden) {
    if (hidden & HIDDEN_REUSEADDR)
        set_option(fd, SO_REUSEADDR, 0);
    if (hidden & HIDDEN_REUSEPORT)
        set_option(fd, SO_REUSEPORT, 0);
}

static void note(int fd, struct descriptor descriptor) {
    set_descriptor(fd, descriptor);
    if (is_ours(descriptor.mark))
        __atomic_store_n(&is_anything_open, 1, __ATOMIC_RELAXED);
}

/* The same by what its keeper knows, which others may have told it. */
static unsigned hidden_as_told(const struct synergy_answer *answer) {
    return (answer->flags & SYNERGY_SHARES ? 0U : HIDDEN_REUSEPORT) |
           (answer->flags & SYNERGY_LETS_OTHERS_IN ? 0U : HIDDEN_REUSEADDR);
}

/* Has the keeper punch for the socket, and notes what it is to us. 0, or an errno. */
static int hand_over(int fd, const struct identity *identity, int keeper, struct hiding hiding,
                     struct synergy_request *request) {
    struct synergy_answer answer = {0};
    request->fd = fd;
    request->cookie = identity->cookie;
    request->flags = flags_of(hiding.options);
    int error = ask_keeper(keeper, request, fd, &answer);
    if (error == 0 && answer.result == EEXIST) {
        /* Another process has handed it over to its own keeper. */
        keeper = find_keeper_of(fd, identity, &answer);
        error = keeper == NO_KEEPER ? EEXIST : 0;
        if (error == 0 && request->kind == SYNERGY_OPEN_TOWARD)
            error = ask_keeper(keeper, request, fd, &answer);
    }
    struct descriptor descriptor = {.mark = SYNERGY_UNTOUCHED};
    if (error == 0 && answer.result == 0 && !hiding.is_noted)
        hiding.options |= hidden_as_told(&answer);
    if (error == 0 && answer.result == 0)
        descriptor = (struct descriptor){.mark = (enum synergy_mark)answer.mark,
                                         .keeper = (unsigned)keeper,
                                         .hidden = hiding.options,
                                         .cookie = identity->cookie};
    else if (is_shortage(error) || is_shortage(answer.result) ||
             request->kind == SYNERGY_OPEN_TOWARD)
        descriptor.mark = SYNERGY_UNKNOWN;
    if (!is_ours(descriptor.mark))
        give_options_back(fd, hiding.options);
    note(fd, descriptor);
    return error ? error : answer.result;
}

/* Nothing comes of it but what the keeper says, if there is nothing else that it punches for. */
static void tell_of_left_out(int fd, const struct identity *identity, int keeper) {
    struct synergy_request request = {.kind = SYNERGY_OPEN, .fd = fd, .cookie = identity->cookie};
    struct synergy_answer answer = {0};
    ask_keeper(keeper, &request, fd, &answer);
}

/* Has the socket punched for if there are peers for its port, or may come to be. */
static void open_socket(int fd, enum transport transport, uint16_t port, int is_kernels_choice) {
    struct identity identity;
    if (!identify(fd, &identity))
        return;
    int keeper = look_up_keeper(&identity);
    if (!is_asked_for(keeper)) {
        if (!settings_mean_port(port)) {
            set_mark(fd, SYNERGY_UNTOUCHED);
            return;
        }
        keeper = obtain_keeper(&identity, SOCKET_IS_THERE, fd, transport == TCP ? port : 0);
    }
    if (keeper == NO_KEEPER || !has_peers(keeper, transport, port, is_kernels_choice)) {
        if (keeper != NO_KEEPER && transport != UDP && !is_anything_open)
            tell_of_left_out(fd, &identity, keeper);
        set_mark(fd, SYNERGY_UNTOUCHED);
        return;
    }
    struct synergy_request request = {.kind = SYNERGY_OPEN};
    struct hiding hiding = hiding_of(fd, identity.cookie);
    if (transport != UDP && !is_one_to_many(fd, transport))
        admit_others(fd);
    hand_over(fd, &identity, keeper, hiding, &request);
}

static void tell(unsigned keeper, enum synergy_kind kind, uint64_t cookie) {
    struct synergy_request request = {.kind = kind, .cookie = cookie};
    struct synergy_answer answer;
    if (!synergy_is_over(keeper_page((int)keeper)))
        ask_keeper((int)keeper, &request, -1, &answer);
}

void socket_is_shut_down(int fd) {
    struct descriptor descriptor = forget_descriptor(fd);
    struct synergy_request request = {.kind = SYNERGY_CLOSED, .cookie = descriptor.cookie};
    struct synergy_answer answer;
    if (is_ours(descriptor.mark) && !synergy_is_over(keeper_page((int)descriptor.keeper)))
        ask_keeper((int)descriptor.keeper, &request, fd, &answer);
    if (is_ours(descriptor.mark) && descriptor.cookie == cookie_of(fd))
        give_options_back(fd, descriptor.hidden);
}

void socket_may_be_disconnected(int fd) {
    uint64_t cookie = __atomic_load_n(&is_anything_open, __ATOMIC_RELAXED) ? cookie_of(fd) : 0;
    struct descriptor known = known_socket(fd, cookie);
    if (!is_known_as(known, cookie) ||
        (known.mark == SYNERGY_LISTENER ? option_of(fd, SO_ACCEPTCONN) == 1 : port_of(fd) != 0))
        return;
    set_descriptor(fd, known);
    socket_is_shut_down(fd);
}

struct preparation socket_will_listen(int fd) {
    struct preparation preparation = {.keeper = NO_KEEPER, .connection = -1};
    struct identity identity;
    socket_may_be_disconnected(fd);
    enum transport transport = transport_of(fd);
    int is_listener = transport == TCP || (transport == SCTP && !is_one_to_many(fd, transport));
    uint16_t port = is_listener ? port_of(fd) : 0;
    if (port == 0 || option_of(fd, SO_ACCEPTCONN) == 1 || !identify(fd, &identity))
        return preparation;
    int keeper = look_up_keeper(&identity);
    if (!is_asked_for(keeper)) {
        if (!settings_mean_port(port))
            return preparation;
        keeper = obtain_keeper(&identity, SOCKET_IS_THERE, fd, port);
    }
    if (keeper == NO_KEEPER || !has_peers(keeper, transport, port, 0))
        return preparation;
    have_others_give_way(keeper, (int)transport, port);
    unsigned hidden = hiding_of(fd, identity.cookie).options;
    preparation =
        (struct preparation){.keeper = keeper, .hidden = hidden, .cookie = identity.cookie};
    admit_others(fd);
    struct synergy_request request = {
        .kind = SYNERGY_PREPARE, .cookie = identity.cookie, .fd = fd, .flags = flags_of(hidden)};
    struct synergy_answer answer = {0};
    ask_keeper_first(keeper, &request, fd, &answer, &preparation.connection);
    if (preparation.connection >= 0 && (answer.result != 0 || answer.mark != SYNERGY_LISTENER)) {
        kernel(SYS_close, preparation.connection);
        preparation.connection = -1;
    }
    /* Whether a second listener may have the port too is for listen() to say, as without us. */
    give_options_back(fd, preparation.connection < 0 ? hidden : hidden & HIDDEN_REUSEPORT);
    return preparation;
}

void socket_asks_for_errors(int fd) {
    struct descriptor descriptor = descriptor_of(fd);
    struct identity identity;
    struct synergy_request request = {.kind = SYNERGY_OPEN};
    if (descriptor.mark == SYNERGY_DATAGRAMS && identify(fd, &identity) &&
        identity.cookie == descriptor.cookie)
        hand_over(fd, &identity, (int)descriptor.keeper, hiding_of(fd, identity.cookie), &request);
}

void socket_may_listen(int fd) {
    struct preparation preparation = socket_will_listen(fd);
    if (preparation.connection < 0)
        return;
    kernel(SYS_close, preparation.connection);
    give_options_back(fd, preparation.hidden & HIDDEN_REUSEADDR);
    /* (It may be closed before that.) */
    set_descriptor(fd, (struct descriptor){.mark = SYNERGY_UNKNOWN,
                                           .keeper = (unsigned)preparation.keeper,
                                           .cookie = preparation.cookie});
}

void socket_listens_as_prepared(int fd, const struct preparation *preparation) {
    struct synergy_request request = {
        .kind = SYNERGY_LISTENS, .cookie = preparation->cookie, .fd = fd};
    if (preparation->connection < 0) {
        socket_listens(fd);
        return;
    }
    admit_others(fd);
    if (tell_keeper(preparation->keeper, preparation->connection, &request) == 0)
        note(fd, (struct descriptor){.mark = SYNERGY_LISTENER,
                                     .keeper = (unsigned)preparation->keeper,
                                     .hidden = preparation->hidden,
                                     .cookie = preparation->cookie});
    else
        socket_listens(fd);
}

static void have_port_looked_at_closely(int fd) {
    struct sockaddr_storage local = {0};
    socklen_t length = sizeof local;
    if (getsockname(fd, (struct sockaddr *)&local, &length) == 0)
        is_free_for_who_lets_others_in(fd, (struct sockaddr *)&local, length);
}

void socket_does_not_listen(int fd, const struct preparation *preparation) {
    struct identity identity;
    if (preparation->keeper == NO_KEEPER)
        return;
    if (preparation->connection >= 0)
        kernel(SYS_close, preparation->connection);
    if (identify(fd, &identity))
        tell((unsigned)preparation->keeper, SYNERGY_CLOSED, identity.cookie);
    /* What punched had SO_REUSEPORT, and the kernel remembers that of the port. */
    if (preparation->connection >= 0 && (preparation->hidden & HIDDEN_REUSEPORT))
        have_port_looked_at_closely(fd);
    give_options_back(fd, preparation->hidden & HIDDEN_REUSEADDR);
}

/* Bound yet, and known by any number: connect() has taken it out of the group that it makes with
 * the keeper's sockets for errors, which have its datagrams until the keeper hears of it. */
static void datagrams_are_for_all_again(int fd) {
    struct identity identity;
    if (!asks_for_errors(fd) || !identify(fd, &identity))
        return;
    struct descriptor known = known_socket(fd, identity.cookie);
    struct synergy_request request = {.kind = SYNERGY_OPEN};
    if (is_known_as(known, identity.cookie))
        hand_over(fd, &identity, (int)known.keeper, hiding_of(fd, identity.cookie), &request);
}

/* Without its port, and perhaps known by a number that has been closed: by the keeper yet. */
static void datagrams_have_no_port(int fd) {
    struct identity identity;
    struct synergy_answer answer = {0};
    if (option_of(fd, SO_REUSEPORT) != 1 || !identify(fd, &identity))
        return;
    int keeper = find_keeper_of(fd, &identity, &answer);
    if (keeper == NO_KEEPER)
        return;
    give_options_back(fd, hidden_as_told(&answer) & HIDDEN_REUSEPORT);
    tell((unsigned)keeper, SYNERGY_CLOSED, identity.cookie);
}

void socket_is_disconnected(int fd) {
    socket_may_be_disconnected(fd);
    if (!__atomic_load_n(&is_anything_open, __ATOMIC_RELAXED) || transport_of(fd) != UDP)
        return;
    if (port_of(fd) != 0)
        datagrams_are_for_all_again(fd);
    else
        datagrams_have_no_port(fd);
}

static int will_listen_as_prepared(int fd) {
    struct descriptor known = descriptor_of(fd);
    return known.mark == SYNERGY_UNKNOWN && known.cookie != 0 && known.cookie == cookie_of(fd);
}

void socket_listens(int fd) {
    enum transport transport = transport_of(fd);
    uint16_t port = transport == TCP || transport == SCTP ? port_of(fd) : 0;
    if (port == 0)
        set_mark(fd, SYNERGY_UNTOUCHED);
    else if (is_one_to_many(fd, transport) && option_of(fd, SO_ACCEPTCONN) != 1)
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
    if (!will_listen_as_prepared(fd))
        set_mark(fd, transport == NEITHER ? SYNERGY_UNTOUCHED : SYNERGY_UNKNOWN);
    struct identity identity;
    /* If it will listen, this is the last moment at which the server surely has the rights that the
     * keeper needs. */
    if (transport != NEITHER && port != 0 && settings_mean_port(port) && identify(fd, &identity))
        obtain_keeper(&identity, SOCKET_IS_THERE, fd, transport == TCP ? port : 0);
}

void socket_has_key(int fd, int option, const void *key, socklen_t length) {
    struct identity identity;
    uint16_t port = port_of(fd);
    if (transport_of(fd) != TCP || length > SYNERGY_KEY_SIZE ||
        (port != 0 && !settings_mean_port(port)) || !identify(fd, &identity))
        return;
    int keeper = obtain_keeper(&identity, SOCKET_IS_THERE, fd, 0);
    if (keeper == NO_KEEPER)
        return;
    struct synergy_request request = {
        .kind = SYNERGY_KEY, .cookie = identity.cookie, .key_option = option, .key_length = length};
    struct synergy_answer answer;
    memcpy(request.key, key, length);
    ask_keeper(keeper, &request, fd, &answer);
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
    int waits = transport == UDP ? port != 0 : option_of(fd, SO_ACCEPTCONN) == 1;
    if (!waits) {
        if (transport != UDP && encounter == RECEIVES)
            set_mark(fd, SYNERGY_UNTOUCHED);
        return mark_of(fd);
    }
    struct identity identity;
    if (!process_is_own() || !identify(fd, &identity))
        return SYNERGY_UNKNOWN;
    int is_client = transport == UDP && is_connected(fd);
    if (look_up_keeper(&identity) == NO_KEEPER) {
        struct synergy_answer answer = {0};
        int keeper = find_keeper_of(fd, &identity, &answer);
        if (keeper != NO_KEEPER) {
            struct descriptor met = {.mark = (enum synergy_mark)answer.mark,
                                     .keeper = (unsigned)keeper,
                                     .hidden = hidden_as_told(&answer),
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

int is_option_hidden(int fd, unsigned option) {
    uint64_t cookie = cookie_of(fd);
    struct descriptor known = known_socket(fd, cookie);
    if (known.mark == SYNERGY_UNKNOWN && is_ours(socket_is_met(fd, FOUND)))
        known = descriptor_of(fd);
    return (known.hidden & option) != 0 && (!is_ours(known.mark) || known.cookie == cookie);
}

static void meet(int fd) {
    struct stat status;
    if (mark_of(fd) == SYNERGY_UNKNOWN && fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode))
        socket_is_met(fd, FOUND);
}

void take_stock(void) {
    for_each_descriptor(meet);
}

void option_is_set(int fd, unsigned option) {
    show_options(fd, option);
    if (!__atomic_load_n(&is_anything_open, __ATOMIC_RELAXED))
        return;
    uint64_t cookie = cookie_of(fd);
    int last = __atomic_load_n(&last_descriptor, __ATOMIC_RELAXED);
    for (int other = 0; other <= last; other++)
        if (is_known_as(descriptor_of(other), cookie))
            show_options(other, option);
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
        else if (is_kept(descriptor))
            /* (Of one that does not listen yet the kernel does not tell that it has gone.) */
            socket_is_closed(&descriptor);
    }
    for (unsigned keeper = 0; keeper < KEEPERS; keeper++)
        if (concerned & 1U << keeper)
            tell(keeper, SYNERGY_GIVE_WAY, 0);
}

int open_toward(int fd, const union synergy_endpoint *peer, int hop_limit) {
    struct identity identity;
    enum transport transport = transport_of(fd);
    if (transport == NEITHER) {
        int domain = option_of(fd, SO_DOMAIN);
        return domain == AF_INET || domain == AF_INET6 ? EOPNOTSUPP
               : domain >= 0                           ? EAFNOSUPPORT
                                                       : errno;
    }
    if (!identify(fd, &identity))
        return errno;
    int keeper = obtain_keeper(&identity, IS_ASKED, -1, 0);
    if (keeper == NO_KEEPER)
        return ELIBACC;
    struct synergy_request request = {
        .kind = SYNERGY_OPEN_TOWARD, .hop_limit = hop_limit, .peer = *peer};
    struct hiding hiding = hiding_of(fd, identity.cookie);
    if (transport != UDP && option_of(fd, SO_ACCEPTCONN) == 1 && !is_one_to_many(fd, transport))
        admit_others(fd);
    return hand_over(fd, &identity, keeper, hiding, &request);
}

void hand_over_again(int keeper) {
    int last = __atomic_load_n(&last_descriptor, __ATOMIC_RELAXED);
    int is_over = synergy_is_over(keeper_page(keeper));
    for (int fd = 0; fd <= last; fd++) {
        struct descriptor descriptor = descriptor_of(fd);
        struct identity identity;
        if (!is_ours(descriptor.mark) || descriptor.keeper != (unsigned)keeper)
            continue;
        struct synergy_request request = {.kind = SYNERGY_OPEN};
        if (!is_over && identify(fd, &identity) && identity.cookie == descriptor.cookie)
            hand_over(fd, &identity, keeper, hiding_of(fd, identity.cookie), &request);
        else
            forget_descriptor(fd);
    }
}
