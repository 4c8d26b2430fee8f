/* Every intercepted call with good and bad arguments: results, errno and what was written.
 * transcript [sharing] */
#include "program.h"

#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>

static void say(const char *what, long result) {
    printf("%s: %ld %s\n", what, result, result < 0 ? strerrorname_np(errno) : "");
    fflush(stdout);
}

#define TRY(call)                                                                                  \
    do {                                                                                           \
        errno = 0;                                                                                 \
        say(#call, (long)(call));                                                                  \
    } while (0)

/* errno is not touched by a call that succeeds. */
#define KEEPS_ERRNO(call)                                                                          \
    do {                                                                                           \
        errno = ELIBSCN;                                                                           \
        long keeps_result = (long)(call);                                                          \
        printf("%s: %s, errno %s\n", #call, keeps_result >= 0 ? "succeeds" : "fails",              \
               strerrorname_np(errno));                                                            \
    } while (0)

static void say_address(const struct sockaddr_storage *address, socklen_t length) {
    printf("  family %d, length %u", address->ss_family, length);
    if (address->ss_family == AF_INET6) {
        char text[INET6_ADDRSTRLEN];
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
        printf(", %s", inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof text));
    }
    printf("\n");
}

static int sockets[64], socket_count;

/* Sockets are told by what they are, as their numbers could differ for good reasons. */
static int kept(int fd) {
    NEED(fd >= 0);
    sockets[socket_count++] = fd;
    return fd;
}

static void close_kept(void) {
    while (socket_count > 0)
        close(sockets[--socket_count]);
}

static void *bad; /* an address that is mapped nowhere */

static void bad_descriptors(int fd) {
    struct sockaddr_in6 address = any_v6(0);
    struct sockaddr *any = (struct sockaddr *)&address;
    socklen_t length = sizeof address;
    struct sockaddr_storage from;
    struct sockaddr *into = (struct sockaddr *)&from;
    char byte;
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    struct mmsghdr messages[2] = {{.msg_hdr = message}, {.msg_hdr = message}};
    TRY(bind(fd, any, length));
    TRY(listen(fd, 5));
    TRY(accept(fd, NULL, NULL));
    TRY(accept(fd, into, &length));
    TRY(accept4(fd, into, &length, SOCK_CLOEXEC));
    TRY(recvfrom(fd, &byte, 1, MSG_DONTWAIT, NULL, NULL));
    TRY(recvfrom(fd, &byte, 1, MSG_DONTWAIT, into, &length));
    TRY(recvmsg(fd, &message, MSG_DONTWAIT));
    TRY(recvmmsg(fd, messages, 2, MSG_DONTWAIT, NULL));
}

static void binding(void) {
    struct sockaddr_in6 v6 = any_v6(0), loopback = loopback_v6(0);
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in unspecified = {.sin_family = AF_UNSPEC};
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    struct sockaddr_in6 elsewhere = any_v6(0);
    inet_pton(AF_INET6, "2001:db8:ffff::1", &elsewhere.sin6_addr);
    for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++) {
        printf("bind, type %d\n", type);
        KEEPS_ERRNO(bind(kept(socket(AF_INET6, type, 0)), (struct sockaddr *)&v6, sizeof v6));
        TRY(bind(kept(socket(AF_INET6, type, 0)), (struct sockaddr *)&loopback, sizeof loopback));
        TRY(bind(kept(socket(AF_INET6, type, 0)), (struct sockaddr *)&elsewhere, sizeof elsewhere));
        TRY(bind(kept(socket(AF_INET6, type, 0)), (struct sockaddr *)&v6, sizeof v6 + 100));
        TRY(bind(kept(socket(AF_INET6, type, 0)), (struct sockaddr *)&v6, 24));
        TRY(bind(kept(socket(AF_INET6, type, 0)), (struct sockaddr *)&v6, 23));
        TRY(bind(kept(socket(AF_INET6, type, 0)), (struct sockaddr *)&v6, 2));
        TRY(bind(kept(socket(AF_INET6, type, 0)), (struct sockaddr *)&v6, 1));
        TRY(bind(kept(socket(AF_INET6, type, 0)), (struct sockaddr *)&v6, 0));
        TRY(bind(kept(socket(AF_INET6, type, 0)), (struct sockaddr *)&v6, (socklen_t)-1));
        TRY(bind(kept(socket(AF_INET6, type, 0)), NULL, sizeof v6));
        TRY(bind(kept(socket(AF_INET6, type, 0)), NULL, 0));
        TRY(bind(kept(socket(AF_INET6, type, 0)), bad, sizeof v6));
        TRY(bind(kept(socket(AF_INET6, type, 0)), (struct sockaddr *)&v4, sizeof v4));
        TRY(bind(kept(socket(AF_INET, type, 0)), (struct sockaddr *)&v4, sizeof v4));
        TRY(bind(kept(socket(AF_INET, type, 0)), (struct sockaddr *)&unspecified,
                 sizeof unspecified));
        TRY(bind(kept(socket(AF_INET, type, 0)), (struct sockaddr *)&v6, sizeof v6));
        int unix_socket = kept(socket(AF_UNIX, type, 0));
        KEEPS_ERRNO(bind(unix_socket, (struct sockaddr *)&path, sizeof(sa_family_t)));
        int twice = kept(socket(AF_INET6, type, 0));
        TRY(bind(twice, (struct sockaddr *)&v6, sizeof v6));
        TRY(bind(twice, (struct sockaddr *)&v6, sizeof v6));
        struct sockaddr_in6 taken = any_v6(port_of(twice));
        TRY(bind(kept(socket(AF_INET6, type, 0)), (struct sockaddr *)&taken, sizeof taken));
        close_kept();
    }
}

static void listening(void) {
    int backlogs[] = {-1, 0, 1, 4096, 1 << 30};
    for (unsigned i = 0; i < sizeof backlogs / sizeof *backlogs; i++) {
        int fd = kept(bound_at(SOCK_STREAM, 0));
        KEEPS_ERRNO(listen(fd, backlogs[i]));
        TRY(listen(fd, backlogs[i])); /* again */
    }
    TRY(listen(kept(socket(AF_INET6, SOCK_STREAM, 0)), 5)); /* unbound */
    TRY(listen(kept(bound_at(SOCK_DGRAM, 0)), 5));
    TRY(listen(kept(socket(AF_UNIX, SOCK_STREAM, 0)), 5));
    TRY(listen(kept(socket(AF_UNIX, SOCK_DGRAM, 0)), 5));
    int listener = kept(listener_at(0));
    TRY(listen(kept(client_of(port_of(listener))), 5));
    close_kept();
}

/* Two that share a port until one of them listens. */
static void sharing(void) {
    int on = 1, one = kept(socket(AF_INET6, SOCK_STREAM, 0)),
        two = kept(socket(AF_INET6, SOCK_STREAM, 0));
    setsockopt(one, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(two, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in6 at = any_v6(0);
    TRY(bind(one, (struct sockaddr *)&at, sizeof at));
    at.sin6_port = htons(port_of(one));
    TRY(bind(two, (struct sockaddr *)&at, sizeof at));
    TRY(listen(one, 5));
    TRY(listen(two, 5));
    TRY(listen(two, 5));
    close_kept();
}

static void accepting(void) {
    for (int four = 0; four <= 1; four++) {
        printf("%s\n", four ? "accept4" : "accept");
#define ACCEPT(fd, address, length)                                                                \
    (four ? accept4(fd, address, length, SOCK_CLOEXEC) : accept(fd, address, length))
        int listener = kept(listener_at(0));
        uint16_t port = port_of(listener);
        struct sockaddr_storage from;
        struct sockaddr *into = (struct sockaddr *)&from;
        socklen_t lengths[] = {0, 1, 2, 8, 27, 28, 29, 128};
        for (unsigned i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            kept(client_of(port));
            memset(&from, 0x55, sizeof from);
            socklen_t length = lengths[i];
            errno = ELIBSCN;
            int fd = ACCEPT(listener, into, &length);
            printf("length %u: %s, errno %s, now %u, next byte %02x\n", lengths[i],
                   fd >= 0 ? "accepted" : "failed", strerrorname_np(errno), length,
                   ((unsigned char *)&from)[lengths[i] < 128 ? lengths[i] : 127]);
            if (lengths[i] >= 28)
                say_address(&from, length);
            if (fd >= 0)
                printf("  flags %x, status %x\n", fcntl(kept(fd), F_GETFD), fcntl(fd, F_GETFL));
        }
        kept(client_of(port));
        printf("no address: %d\n", kept(ACCEPT(listener, NULL, NULL)) >= 0);
        kept(client_of(port));
        socklen_t length = sizeof from;
        printf("length alone: %d, %u\n", kept(ACCEPT(listener, NULL, &length)) >= 0, length);
        kept(client_of(port));
        TRY(ACCEPT(listener, into, NULL)); /* EFAULT, and the connection is lost */
        kept(client_of(port));
        TRY(ACCEPT(listener, bad, &length));
        kept(client_of(port));
        length = (socklen_t)-1;
        TRY(ACCEPT(listener, into, &length));
        fcntl(listener, F_SETFL, O_NONBLOCK);
        length = 77;
        TRY(ACCEPT(listener, into, &length)); /* EAGAIN */
        printf("length %u\n", length);
        TRY(ACCEPT(kept(bound_at(SOCK_STREAM, 0)), into, &length)); /* doesn't listen */
        TRY(ACCEPT(kept(bound_at(SOCK_DGRAM, 0)), into, &length));
        TRY(ACCEPT(kept(socket(AF_UNIX, SOCK_STREAM, 0)), into, &length));
        close_kept();
    }
    int listener = kept(listener_at(0));
    int flags[] = {0, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC};
    for (unsigned i = 0; i < 4; i++) {
        kept(client_of(port_of(listener)));
        int fd = kept(accept4(listener, NULL, NULL, flags[i]));
        printf("accept4 flags %x: %x %x\n", flags[i], fcntl(fd, F_GETFD), fcntl(fd, F_GETFL));
    }
    TRY(accept4(listener, NULL, NULL, 0x1234567));

    int unix_listener = kept(socket(AF_UNIX, SOCK_STREAM, 0));
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    socklen_t length = sizeof name;
    TRY(bind(unix_listener, (struct sockaddr *)&name, sizeof(sa_family_t)));
    TRY(listen(unix_listener, 5));
    getsockname(unix_listener, (struct sockaddr *)&name, &length);
    int client = kept(socket(AF_UNIX, SOCK_STREAM, 0));
    TRY(connect(client, (struct sockaddr *)&name, length));
    struct sockaddr_storage from;
    length = sizeof from;
    printf("unix: %d\n", kept(accept(unix_listener, (struct sockaddr *)&from, &length)) >= 0);
    say_address(&from, length);
    close_kept();
}

/* A client that has already gone when it is accepted. */
static void accepting_the_gone(void) {
    int listener = kept(listener_at(0));
    int client = client_of(port_of(listener));
    struct linger reset = {1, 0};
    setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(client);
    struct sockaddr_storage from;
    socklen_t length = sizeof from;
    printf("gone: %d\n", kept(accept(listener, (struct sockaddr *)&from, &length)) >= 0);
    say_address(&from, length);
    client = client_of(port_of(listener));
    setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(client);
    printf("gone, without asking who: %d\n", kept(accept(listener, NULL, NULL)) >= 0);
    for (int type = SOCK_STREAM; type <= SOCK_SEQPACKET; type += SOCK_SEQPACKET - SOCK_STREAM) {
        int unix_listener = kept(socket(AF_UNIX, type, 0));
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        socklen_t size = sizeof name;
        NEED(bind(unix_listener, (struct sockaddr *)&name, sizeof name.sun_family) == 0);
        NEED(listen(unix_listener, 5) == 0);
        NEED(getsockname(unix_listener, (struct sockaddr *)&name, &size) == 0);
        client = socket(AF_UNIX, type, 0);
        NEED(connect(client, (struct sockaddr *)&name, size) == 0);
        close(client);
        int fd = kept(accept4(unix_listener, NULL, NULL, SOCK_NONBLOCK));
        char byte;
        TRY(read(fd, &byte, 1));
    }
    close_kept();
}

static volatile sig_atomic_t alarms;
static void on_alarm(int number) {
    (void)number;
    alarms = alarms + 1;
}

static void interrupted(void) {
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    int listener = kept(listener_at(0)), datagrams = kept(bound_at(SOCK_DGRAM, 0));
    char byte;
    ualarm(50000, 50000);
    TRY(accept(listener, NULL, NULL)); /* EINTR */
    TRY(accept4(listener, NULL, NULL, 0));
    TRY(recvfrom(datagrams, &byte, 1, 0, NULL, NULL));
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    TRY(recvmsg(datagrams, &message, 0));
    ualarm(0, 0);
    printf("a signal for each: %d\n", alarms >= 4);
    signal(SIGALRM, SIG_DFL);
    close_kept();
}

__attribute__((noinline)) static ssize_t fortified(int fd, void *buffer, size_t size, int flags,
                                                   struct sockaddr *from, socklen_t *length) {
    extern ssize_t __recvfrom_chk(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *);
    return __recvfrom_chk(fd, buffer, size, 64, flags, from, length);
}

static void receiving(void) {
    int server = kept(bound_at(SOCK_DGRAM, 0)), client = kept(bound_at(SOCK_DGRAM, 0));
    struct sockaddr_in6 to = loopback_v6(port_of(server));
    char buffer[64];
    struct sockaddr_storage from;
    struct sockaddr *into = (struct sockaddr *)&from;
    socklen_t lengths[] = {0, 2, 27, 28, 29, 128};
#define SEND(text)                                                                                 \
    NEED(sendto(client, text, strlen(text), 0, (struct sockaddr *)&to, sizeof to) >= 0)
    for (unsigned i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        socklen_t length = lengths[i];
        SEND("hello");
        KEEPS_ERRNO(recvfrom(server, buffer, sizeof buffer, 0, into, &length));
        printf("length %u now %u\n", lengths[i], length);
        length = lengths[i];
        SEND("hello");
        TRY(fortified(server, buffer, sizeof buffer, 0, into, &length));
        printf("length %u now %u\n", lengths[i], length);
    }
    socklen_t length = sizeof from;
    SEND("hello");
    TRY(recvfrom(server, buffer, 2, MSG_TRUNC, into, &length));
    SEND("");
    TRY(recvfrom(server, buffer, sizeof buffer, 0, into, &length));
    SEND("hello");
    TRY(recvfrom(server, buffer, sizeof buffer, 0, NULL, NULL));
    SEND("hello");
    TRY(recvfrom(server, buffer, sizeof buffer, 0, into, NULL)); /* EFAULT */
    SEND("hello");
    TRY(recvfrom(server, buffer, sizeof buffer, 0, bad, &length));
    SEND("hello");
    TRY(recvfrom(server, bad, sizeof buffer, 0, into, &length));
    SEND("hello");
    TRY(recvfrom(server, buffer, sizeof buffer, 0, into, bad));
    TRY(recvfrom(server, buffer, sizeof buffer, MSG_DONTWAIT, into, &length)); /* EAGAIN */
    TRY(fortified(server, buffer, sizeof buffer, MSG_DONTWAIT, into, &length));

    struct iovec vector = {buffer, sizeof buffer};
    struct msghdr message = {
        .msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &vector, .msg_iovlen = 1};
    SEND("hello");
    KEEPS_ERRNO(recvmsg(server, &message, 0));
    printf("name %u, flags %x\n", message.msg_namelen, message.msg_flags);
    message.msg_name = NULL;
    SEND("hello");
    TRY(recvmsg(server, &message, 0));
    message.msg_name = bad;
    message.msg_namelen = sizeof from;
    SEND("hello");
    TRY(recvmsg(server, &message, 0));
    TRY(recvmsg(server, NULL, MSG_DONTWAIT));
    TRY(recvmsg(server, bad, MSG_DONTWAIT));
    message.msg_name = &from;
    TRY(recvmsg(server, &message, MSG_DONTWAIT));
    TRY(recvmsg(server, &message, MSG_ERRQUEUE | MSG_DONTWAIT));

    struct mmsghdr messages[3];
    struct sockaddr_storage names[3];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < 3; i++) {
        messages[i].msg_hdr.msg_iov = &vector;
        messages[i].msg_hdr.msg_iovlen = 1;
        messages[i].msg_hdr.msg_name = i == 1 ? NULL : (void *)&names[i];
        messages[i].msg_hdr.msg_namelen = i == 1 ? 0 : sizeof names[i];
    }
    SEND("hello");
    SEND("you");
    KEEPS_ERRNO(recvmmsg(server, messages, 3, MSG_DONTWAIT, NULL));
    printf("%u %u, names %u %u\n", messages[0].msg_len, messages[1].msg_len,
           messages[0].msg_hdr.msg_namelen, messages[1].msg_hdr.msg_namelen);
    TRY(recvmmsg(server, messages, 3, MSG_DONTWAIT, NULL));
    TRY(recvmmsg(server, bad, 3, MSG_DONTWAIT, NULL));
    TRY(recvmmsg(server, messages, 0, MSG_DONTWAIT, NULL));
    struct timespec short_time = {.tv_nsec = 1000};
    SEND("hello");
    TRY(recvmmsg(server, messages, 1, 0, &short_time));
    TRY(recvmmsg(server, messages, 1, MSG_DONTWAIT, bad));

    /* On connections, and on what was never bound. */
    int ends[2];
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    NEED(write(ends[0], "hello", 5) == 5);
    length = sizeof from;
    TRY(recvfrom(kept(ends[1]), buffer, sizeof buffer, 0, into, &length));
    printf("length %u\n", length);
    close(ends[0]);
    TRY(recvfrom(ends[1], buffer, sizeof buffer, 0, into, &length));
    int listener = kept(listener_at(0)), stream = kept(client_of(port_of(listener)));
    int accepted = kept(accept(listener, NULL, NULL));
    NEED(write(accepted, "hello", 5) == 5);
    length = sizeof from;
    TRY(recvfrom(stream, buffer, sizeof buffer, 0, into, &length));
    printf("length %u\n", length);
    TRY(recvfrom(listener, buffer, sizeof buffer, MSG_DONTWAIT, into, &length));
    TRY(recvfrom(kept(socket(AF_INET6, SOCK_DGRAM, 0)), buffer, 1, MSG_DONTWAIT, into, &length));
    TRY(recvfrom(kept(socket(AF_INET6, SOCK_STREAM, 0)), buffer, 1, MSG_DONTWAIT, into, &length));
    close_kept();
}

static void closing(void) {
    TRY(close(-1));
    TRY(close(9999));
    TRY(close(70000));
    TRY(close(1 << 30));
    int fd = listener_at(0);
    KEEPS_ERRNO(close(fd));
    TRY(close(fd));
    fd = bound_at(SOCK_DGRAM, 0);
    KEEPS_ERRNO(close(fd));
    TRY(close(fd));
    fd = open("/dev/null", O_RDONLY);
    TRY(close(fd));
}

/* An option that was not set by the program is not set after it has been punched for. */
static void connecting(void) {
    int fd = kept(socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0));
    struct sockaddr_in6 at = loopback_v6(0);
    TRY(bind(fd, (struct sockaddr *)&at, sizeof at));
    int listener = kept(listener_at(0));
    struct sockaddr_in6 to = loopback_v6(port_of(listener));
    errno = 0;
    int result = connect(fd, (struct sockaddr *)&to, sizeof to);
    printf("connect: %d %d\n", result, result == 0 || errno == EINPROGRESS);
    char byte;
    TRY(recvfrom(fd, &byte, 1, MSG_DONTWAIT, NULL, NULL));
    TRY(listen(fd, 3));
    close_kept();
}

static void waiting(void) {
    int listener = kept(listener_at(0)), datagrams = kept(bound_at(SOCK_DGRAM, 0));
    int epoll = kept(epoll_create1(0)), ends[2];
    NEED(pipe(ends) == 0);
    kept(ends[0]);
    kept(ends[1]);
    struct epoll_event event = {.events = EPOLLIN};
    TRY(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event));
    TRY(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event));
    TRY(epoll_ctl(epoll, EPOLL_CTL_DEL, ends[0], NULL));
    TRY(epoll_ctl(epoll, EPOLL_CTL_ADD, -1, &event));
    TRY(epoll_ctl(epoll, EPOLL_CTL_ADD, epoll, &event));
    TRY(epoll_ctl(-1, EPOLL_CTL_ADD, listener, &event));
    TRY(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], bad));
    KEEPS_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, datagrams, &event));
    struct pollfd polled[] = {{.fd = listener, .events = POLLIN},
                              {.fd = -1, .events = POLLIN},
                              {.fd = ends[1], .events = POLLOUT},
                              {.fd = 9999, .events = POLLIN}};
    struct timespec at_once = {0}, wrong = {.tv_nsec = -1};
    struct timeval now = {0};
    TRY(poll(polled, 2, 0));
    TRY(poll(polled, 4, 0));
    printf("%d %d %d %d\n", polled[0].revents, polled[1].revents, polled[2].revents,
           polled[3].revents);
    TRY(poll(NULL, 0, 0));
    KEEPS_ERRNO(poll(polled, 1, 0));
    TRY(ppoll(polled, 4, &at_once, NULL));
    TRY(ppoll(polled, 1, &wrong, NULL));
    fd_set set;
    FD_ZERO(&set);
    FD_SET(listener, &set);
    TRY(select(listener + 1, &set, NULL, NULL, &now));
    FD_SET(1000, &set);
    TRY(select(1001, &set, NULL, NULL, &now));
    TRY(select(-1, NULL, NULL, NULL, &now));
    FD_ZERO(&set);
    FD_SET(datagrams, &set);
    TRY(pselect(datagrams + 1, &set, NULL, NULL, &at_once, NULL));
    TRY(pselect(0, NULL, NULL, NULL, &wrong, NULL));
    close_kept();
}

static void sending(void) {
    int from = kept(bound_at(SOCK_DGRAM, 0)), at = kept(bound_at(SOCK_DGRAM, 0));
    struct sockaddr_in6 to = loopback_v6(port_of(at)), none = loopback_v6(0);
    struct iovec vector = {"hello", 5};
    struct msghdr message = {
        .msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &vector, .msg_iovlen = 1};
    struct msghdr nowhere = {.msg_iov = &vector, .msg_iovlen = 1};
    struct mmsghdr messages[] = {{.msg_hdr = message}, {.msg_hdr = message}, {.msg_hdr = nowhere}};
    TRY(sendto(from, "hello", 5, 0, (struct sockaddr *)&to, sizeof to));
    TRY(sendto(from, "hello", 5, 0, (struct sockaddr *)&to, 3));
    TRY(sendto(from, "hello", 5, 0, (struct sockaddr *)&none, sizeof none));
    TRY(sendto(from, "hello", 5, 0, NULL, 0));
    TRY(sendto(from, bad, 5, 0, (struct sockaddr *)&to, sizeof to));
    TRY(sendto(from, "hello", 5, 0, bad, sizeof to));
    TRY(sendto(-1, "hello", 5, 0, NULL, 0));
    KEEPS_ERRNO(sendto(from, "hello", 5, 0, (struct sockaddr *)&to, sizeof to));
    TRY(sendmsg(from, &message, 0));
    TRY(sendmsg(from, &nowhere, 0));
    TRY(sendmsg(from, bad, 0));
    KEEPS_ERRNO(sendmsg(from, &message, 0));
    TRY(sendmmsg(from, messages, 3, 0));
    TRY(sendmmsg(from, messages + 2, 1, 0));
    TRY(sendmmsg(from, bad, 2, 0));
    TRY(sendmmsg(-1, messages, 2, 0));
    close_kept();
}

static void becoming(void) {
    int listener = kept(listener_at(0)), status;
    pid_t child = fork();
    if (child == 0) {
        struct pollfd polled = {.fd = listener, .events = POLLIN};
        struct epoll_event event = {.events = EPOLLIN};
        int epoll = epoll_create1(0);
        KEEPS_ERRNO(setsid());
        TRY(setsid() == -1);
        KEEPS_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event));
        KEEPS_ERRNO(poll(&polled, 1, 0));
        pid_t next = fork();
        if (next == 0) {
            int result = daemon(1, 1);
            printf("daemon: %d, a leader %d, listens %d\n", result, getsid(0) == getpid(),
                   port_of(listener) != 0);
            fflush(stdout);
            _exit(0);
        }
        NEED(waitpid(next, &status, 0) == next);
        usleep(200000); /* the daemon's line */
        _exit(status != 0);
    }
    NEED(child > 0);
    NEED(waitpid(child, &status, 0) == child);
    printf("child: %d\n", status);
    close_kept();
}

int main(int count, char **words) {
    if (count > 1 && strcmp(words[1], "sharing") == 0) {
        sharing();
        return 0;
    }
    long page = sysconf(_SC_PAGESIZE);
    bad = mmap(NULL, (size_t)page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int ends[2];
    NEED(pipe(ends) == 0);
    int numbers[] = {-1, -100, 9999, 70000, 1 << 30, ends[0]};
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        printf("descriptor %d\n", numbers[i] == ends[0] ? 0 : numbers[i]);
        bad_descriptors(numbers[i]);
    }
    /* Twice: the second time the engine runs, and knows the numbers. */
    for (int round = 0; round < 2; round++) {
        printf("round %d\n", round);
        binding();
        listening();
        accepting();
        accepting_the_gone();
        interrupted();
        receiving();
        closing();
        connecting();
        waiting();
        sending();
        becoming();
    }
    printf("descriptor %d, again\n", 0);
    bad_descriptors(ends[0]);
    return 0;
}
