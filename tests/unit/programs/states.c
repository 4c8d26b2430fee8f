/*
 * states SEED STEPS: what becomes of sockets that a program opens, binds, listens at, connects,
 * takes apart, duplicates, passes on and closes in any order, and what it is told of them. Prints
 * each result, so that a run with the library can be compared with one without. (arguments.c has
 * the arguments that nobody would write.)
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t state;

/* splitmix64 (Steele, Lea, Flood 2014), which is the same everywhere. */
static unsigned below(unsigned bound) {
    uint64_t z = state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return (unsigned)((z ^ (z >> 31)) % bound);
}

enum { FIRST = 10, FDS = 24, PORTS = 5, FIRST_PORT = 4000 };
static int passing[2], waiting;

/* The numbers are the program's own choice, the same in each run. Most of them stand for something.
 */
static int some(void) {
    int fd = FIRST;
    for (int tried = 0; tried < 4; tried++) {
        fd = FIRST + (int)below(FDS);
        if (syscall(SYS_fcntl, fd, F_GETFD) >= 0)
            break;
    }
    return fd;
}

static struct sockaddr_storage an_address(int is_v6, socklen_t *length) {
    struct sockaddr_storage address = {0};
    in_port_t port = below(5) ? htons(FIRST_PORT + below(PORTS)) : 0;
    int is_loopback = below(3) == 0;
    if (is_v6) {
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = port};
        if (is_loopback)
            v6.sin6_addr = in6addr_loopback;
        memcpy(&address, &v6, *length = sizeof v6);
    } else {
        struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = port};
        if (is_loopback)
            v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        memcpy(&address, &v4, *length = sizeof v4);
    }
    return address;
}

static int is_v6(int fd) {
    int domain = 0;
    socklen_t length = sizeof domain;
    return syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 &&
           domain == AF_INET6;
}

static char said[256];

static void say_address(const struct sockaddr_storage *address, socklen_t length) {
    unsigned port = ntohs(((const struct sockaddr_in *)address)->sin_port);
    int is_inet = address->ss_family == AF_INET || address->ss_family == AF_INET6;
    /* Those that the kernel chooses differ. */
    snprintf(said, sizeof said, " family %d length %u port %u", address->ss_family, length,
             !is_inet                                          ? 0
             : port < FIRST_PORT || port >= FIRST_PORT + PORTS ? port != 0
                                                               : port);
}

static const struct {
    int level, name;
} options[] = {{SOL_SOCKET, SO_REUSEADDR},
               {SOL_SOCKET, SO_REUSEPORT},
               {SOL_SOCKET, SO_REUSEADDR},
               {SOL_SOCKET, SO_REUSEPORT},
               {SOL_SOCKET, SO_KEEPALIVE},
               {SOL_SOCKET, SO_ERROR},
               {SOL_SOCKET, SO_ACCEPTCONN},
               {SOL_SOCKET, SO_PRIORITY},
               {SOL_SOCKET, SO_BROADCAST},
               {SOL_SOCKET, SO_TIMESTAMP},
               {IPPROTO_IPV6, IPV6_V6ONLY},
               {IPPROTO_IPV6, IPV6_UNICAST_HOPS},
               {IPPROTO_IP, IP_TTL},
               {IPPROTO_IP, IP_MINTTL},
               {IPPROTO_TCP, TCP_NODELAY},
               {IPPROTO_TCP, TCP_SYNCNT},
               {IPPROTO_TCP, TCP_KEEPIDLE},
               {IPPROTO_TCP, TCP_USER_TIMEOUT},

               {SOL_SOCKET, SO_INCOMING_CPU + 1000},
               {IPPROTO_IPV6, IPV6_RECVERR},
               {IPPROTO_IP, IP_RECVERR},
               {IPPROTO_IPV6, IPV6_MINHOPCOUNT}};

/* By number: whether another one stands for it, too, or another process has it. What becomes of it
 * there is not seen, so these serve on: nothing is asked of the options that are set for our sake,
 * and nothing makes them something else. */
static char is_copy[FIRST + FDS];

static unsigned some_option(int fd) {
    enum { OURS = 4 };
    unsigned all = sizeof options / sizeof *options;
    return is_copy[fd] ? OURS + below(all - OURS) : below(all);
}

static int set_option(int fd) {
    unsigned which = some_option(fd);
    int value = (int)below(2);
    struct sockaddr_in6 at = {0};
    socklen_t length = sizeof at;
    /* (Those by which it shares its port are the server's to set before it has one.) */
    if (options[which].level == SOL_SOCKET &&
        (options[which].name == SO_REUSEADDR || options[which].name == SO_REUSEPORT) &&
        getsockname(fd, (struct sockaddr *)&at, &length) == 0 && at.sin6_port != 0)
        value = 1;
    /* (A time, and a hop limit that reaches this host.) */
    if (options[which].name == TCP_USER_TIMEOUT || options[which].level == IPPROTO_IP)
        value = 0;
    if (options[which].name == IP_TTL && options[which].level == IPPROTO_IP)
        value = 64;
    if (options[which].name == TCP_NODELAY && options[which].level == IPPROTO_TCP)
        value = 1;
    if (options[which].name == IPV6_UNICAST_HOPS || options[which].name == TCP_SYNCNT)
        value = 7;
    if (options[which].name == IPV6_MINHOPCOUNT && options[which].level == IPPROTO_IPV6)
        value = 0;
    int result = setsockopt(fd, options[which].level, options[which].name, &value, sizeof value);
    snprintf(said, sizeof said, " %d %d = %d", options[which].level, options[which].name, value);
    return result;
}

static int get_option(int fd) {
    unsigned which = some_option(fd);
    int value = 77;
    socklen_t length = sizeof value;
    int result = getsockopt(fd, options[which].level, options[which].name, &value, &length);
    snprintf(said, sizeof said, " %d %d: %d %u", options[which].level, options[which].name, value,
             length);
    return result;
}

/* What is sent is there at once: when an acknowledgement comes for which Nagle's algorithm (RFC
 * 896) waits depends on how long a run takes. (A socket that is connected to itself waits for its
 * own.) */
static void be_prompt(int fd) {
    static const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static int opened(int number) {
    static const int kinds[][2] = {{AF_INET, SOCK_STREAM},  {AF_INET6, SOCK_STREAM},
                                   {AF_INET6, SOCK_STREAM}, {AF_INET, SOCK_DGRAM},
                                   {AF_INET6, SOCK_DGRAM},  {AF_UNIX, SOCK_STREAM}};
    const int *kind = kinds[below(6)];
    int fd = socket(kind[0], kind[1] | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fd;
    be_prompt(fd);
    if (fd != number) {
        dup2(fd, number);
        close(fd);
    }
    is_copy[number] = 0;
    return number;
}

/* At its place: the lowest free number depends on what was closed before. */
static int placed(int fd, char is_one) {
    int number = fd;
    if (fd >= 0 && (fd < FIRST || fd >= FIRST + FDS)) {
        number = dup3(fd, FIRST + (int)below(FDS), 0);
        close(fd);
    }
    if (number >= 0)
        is_copy[number] = is_one;
    return number;
}

/* A listener that was shut down and still has connections may not listen again unless it has
 * SO_REUSEADDR. (With the library it may: it listens beside what punches already.) */
static int listened(int fd) {
    static const int on = 1;
    int is_listening = 0;
    socklen_t length = sizeof is_listening;
    syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &length);
    if (!is_listening)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    return below(8) ? listen(fd, 64) : (int)syscall(SYS_listen, fd, 64);
}

static int connected(int fd) {
    socklen_t length;
    struct sockaddr_storage to = an_address(is_v6(fd), &length);
    if (below(3) == 0)
        to.ss_family = AF_UNSPEC;
    snprintf(said, sizeof said, " family %d", to.ss_family);
    return connect(fd, (struct sockaddr *)&to, length);
}

static int accepted(int fd) {
    struct sockaddr_storage from = {0};
    socklen_t length = sizeof from;
    int got = below(3) == 0   ? accept(fd, NULL, NULL)
              : below(2) == 0 ? accept(fd, (struct sockaddr *)&from, &length)
                              : accept4(fd, (struct sockaddr *)&from, &length, SOCK_NONBLOCK);
    if (got < 0)
        return got;
    fcntl(got, F_SETFL, O_NONBLOCK);
    say_address(&from, length);
    return placed(got, 0);
}

static int duplicated(int fd) {
    int number = FIRST + (int)below(FDS);
    switch (below(4)) {
    case 0:
        return placed(fcntl(fd, F_DUPFD, FIRST), 1);
    case 1:
        return placed(fcntl(fd, F_DUPFD_CLOEXEC, FIRST + FDS), 1);
    case 2:
        number = dup2(fd, number);
        break;
    default:
        number = dup3(fd, number, O_CLOEXEC);
    }
    if (number >= 0)
        is_copy[number] = 1;
    return number;
}

static int passed_on(int fd) {
    char byte = 'x';
    struct iovec data = {&byte, 1};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *extra = CMSG_FIRSTHDR(&message);
    *extra = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(extra), &fd, sizeof fd);
    if (sendmsg(passing[0], &message, MSG_NOSIGNAL) != 1)
        return -1;
    if (below(3) == 0)
        close(fd);
    if (recvmsg(passing[1], &message, 0) != 1)
        return -1;
    memcpy(&fd, CMSG_DATA(extra), sizeof fd);
    return placed(fd, 1);
}

static long received(int fd) {
    char bytes[100], more[10];
    struct iovec data[2] = {{bytes, 3}, {more, sizeof more}};
    struct mmsghdr messages[2] = {{.msg_hdr = {.msg_iov = &data[0], .msg_iovlen = 1}},
                                  {.msg_hdr = {.msg_iov = &data[1], .msg_iovlen = 1}}};
    struct sockaddr_storage from = {0};
    socklen_t length = sizeof from;
    switch (below(7)) {
    case 0:
        return recv(fd, bytes, sizeof bytes, 0);
    case 1:
        return read(fd, bytes, sizeof bytes);
    case 2:
        return readv(fd, data, 2);
    case 3:
        return recvmmsg(fd, messages, 2, 0, NULL);
    case 4: {
        int ends[2];
        if (pipe2(ends, O_NONBLOCK) != 0)
            return -1;
        long result = splice(fd, NULL, ends[1], NULL, 50, SPLICE_F_NONBLOCK);
        close(ends[0]);
        close(ends[1]);
        return result;
    }
    case 5:
        return recvmsg(fd, &messages[0].msg_hdr, MSG_ERRQUEUE);
    default: {
        long result = recvfrom(fd, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &length);
        if (result >= 0)
            say_address(&from, length);
        return result;
    }
    }
}

static long sent(int fd) {
    static char bytes[20];
    struct iovec data[2] = {{bytes, 3}, {bytes, 5}};
    socklen_t length;
    struct sockaddr_storage to = an_address(is_v6(fd), &length);
    struct mmsghdr messages[2] = {{.msg_hdr = {.msg_iov = &data[0], .msg_iovlen = 1}},
                                  {.msg_hdr = {.msg_iov = &data[1], .msg_iovlen = 1}}};
    switch (below(6)) {
    case 0:
        return send(fd, bytes, sizeof bytes, MSG_NOSIGNAL);
    case 1:
        return write(fd, bytes, sizeof bytes);
    case 2:
        return writev(fd, data, 2);
    case 3:
        return sendmmsg(fd, messages, 2, MSG_NOSIGNAL);
    case 4: {
        int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        long result = sendfile(fd, file, NULL, 10);
        close(file);
        return result;
    }
    default:
        return sendto(fd, bytes, sizeof bytes, MSG_NOSIGNAL, (struct sockaddr *)&to, length);
    }
}

static int watched(int fd) {
    /* (That there is room again EPOLLET tells after each datagram, a punch from the same socket
     * too.) */
    struct epoll_event event = {.events = EPOLLIN | (below(2) ? EPOLLET : EPOLLOUT), .data.fd = fd};
    return epoll_ctl(waiting, 1 + (int)below(3), fd, &event);
}

static int waited(void) {
    struct epoll_event events[FDS] = {0};
    unsigned all = 0, which = 0;
    int count = epoll_wait(waiting, events, FDS, 0);
    for (int i = 0; i < count; i++) {
        all += events[i].events * (unsigned)(events[i].data.fd + 1);
        which |= 1U << (events[i].data.fd - FIRST);
    }
    snprintf(said, sizeof said, " %x %x", all, which);
    return count;
}

static int polled(void) {
    struct pollfd all[FDS];
    int length = 0;
    for (int i = 0; i < FDS; i++)
        all[i] = (struct pollfd){.fd = FIRST + i, .events = POLLIN | POLLOUT};
    int count = poll(all, FDS, 0);
    for (int i = 0; i < FDS; i++)
        length +=
            snprintf(said + length, sizeof said - (size_t)length, " %x", (unsigned)all[i].revents);
    return count;
}

static int named(int fd) {
    struct sockaddr_storage address = {0};
    socklen_t length = sizeof address;
    int result = below(2) ? getsockname(fd, (struct sockaddr *)&address, &length)
                          : getpeername(fd, (struct sockaddr *)&address, &length);
    if (result == 0)
        say_address(&address, length);
    return result;
}

static long numbered(int fd) {
    struct sockaddr_storage from;
    socklen_t length = sizeof from;
    switch (below(2)) {
    case 0: {
        int got = (int)syscall(SYS_accept4, fd, &from, &length, SOCK_NONBLOCK);
        return placed(got, 0);
    }
    default:
        return syscall(SYS_close, fd);
    }
}

static void *closing(void *fd) {
    return (void *)(intptr_t)close(*(int *)fd);
}

static int closed_by_a_thread(int fd) {
    pthread_t thread;
    void *result = NULL;
    if (pthread_create(&thread, NULL, closing, &fd) == 0)
        pthread_join(thread, &result);
    return (int)(intptr_t)result;
}

static int spawned(int fd) {
    extern char **environ;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fd, 3);
    posix_spawn_file_actions_addclose(&actions, fd);
    pid_t child = 0;
    int status = 0;
    int error = posix_spawn(&child, "/bin/true", &actions, NULL, (char *[]){"true", NULL}, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error == 0)
        waitpid(child, &status, 0);
    return error ? -error : status;
}

/* Its own descriptors, and the same sockets. */
static int vforked(int fd) {
    int status = 0;
    pid_t child = vfork();
    if (child == 0) {
        close(fd);
        _exit(3);
    }
    waitpid(child, &status, 0);
    return status;
}

static void steps(long count, const char *who);

static int forked(void) {
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        steps(8, "child");
        fflush(stdout);
        _exit(4);
    }
    waitpid(child, &status, 0);
    /* What it has made of them the parent's library is not told, nor what options they have now. */
    memset(is_copy, 1, sizeof is_copy);
    return status;
}

static void steps(long count, const char *who) {
    for (long i = 0; i < count; i++) {
        const char *name = "";
        long result = 0;
        int fd = some();
        socklen_t length;
        said[0] = '\0';
        errno = 0;
#define STEP(first, last, what, expression)                                                        \
    case first ... last:                                                                           \
        name = what;                                                                               \
        result = expression;                                                                       \
        break
        unsigned step = below(100);
        if (is_copy[fd] && ((step > 11 && step < 46) || (step > 61 && step < 65)))
            step = 78;
        switch (step) {
            STEP(0, 11, "socket", opened(FIRST + (int)below(FDS)));
        case 12 ... 25: {
            struct sockaddr_storage at = an_address(is_v6(fd), &length);
            name = "bind";
            snprintf(said, sizeof said, " %u", ntohs(((struct sockaddr_in *)&at)->sin_port));
            result = bind(fd, (struct sockaddr *)&at, length);
            break;
        }
            STEP(26, 34, "listen", listened(fd));
            STEP(35, 45, "connect", connected(fd));
            STEP(46, 51, "accept", accepted(fd));
            STEP(52, 56, "close", close(fd));
            STEP(57, 61, "dup", duplicated(fd));
            STEP(62, 64, "shutdown", shutdown(fd, (int)below(3)));
            STEP(65, 70, "setsockopt", set_option(fd));
            STEP(71, 77, "getsockopt", get_option(fd));
            STEP(78, 80, "name", named(fd));
            STEP(81, 84, "send", sent(fd));
            STEP(85, 88, "receive", received(fd));
            STEP(89, 90, "epoll_ctl", watched(fd));
            STEP(91, 91, "epoll_wait", waited());
            STEP(92, 92, "poll", polled());
            STEP(93, 94, "pass", passed_on(fd));
            STEP(95, 96, "syscall", numbered(fd));
            STEP(97, 97, "thread", closed_by_a_thread(fd));
        default:
            switch (below(8)) {
            case 0:
                name = "close_range";
                result = close_range((unsigned)fd, (unsigned)fd + below(4),
                                     below(3) ? 0 : (int)CLOSE_RANGE_CLOEXEC);
                break;
            case 1:
                name = "spawn";
                result = spawned(fd);
                break;
            case 2:
                name = "vfork";
                result = vforked(fd);
                break;
            case 3:
                if (*who == 'p') {
                    name = "fork";
                    result = forked();
                }
                break;
            default:
                name = "flags";
                result = fcntl(fd, below(2) ? F_GETFL : F_GETFD);
            }
        }
        printf("%s %ld %s %d: %ld %s%s\n", who, i, name, fd, result,
               result < 0 ? strerrorname_np(errno) : "", said);
    }
}

/* A network of its own, in which nobody else binds anything. */
static void be_alone(void) {
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
        perror("unshare"), exit(2);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (ioctl(fd, SIOCSIFFLAGS, &loopback) != 0)
        perror("lo"), exit(2);
    close(fd);
}

int main(int count, char **words) {
    state = count > 1 ? strtoull(words[1], NULL, 10) : 1;
    be_alone();
    signal(SIGPIPE, SIG_IGN);
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) != 0)
        return 2;
    /* Beyond the others' numbers. */
    passing[0] = fcntl(pair[0], F_DUPFD, 100);
    passing[1] = fcntl(pair[1], F_DUPFD, 100);
    int epoll = epoll_create1(0);
    waiting = fcntl(epoll, F_DUPFD, 100);
    close(pair[0]);
    close(pair[1]);
    close(epoll);
    steps(count > 2 ? atol(words[2]) : 1000, "parent");
    return 0;
}
