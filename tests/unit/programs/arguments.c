/*
 * arguments SEED CALLS: calls everything that the library intercepts (a call without a case here is
 * a warning of the compiler's), with arguments as nobody
 * would write them: bad pointers, rooms that end in the middle, at the end of a page, that overlap,
 * numbers that are huge or negative. Prints what each call returned, errno, and what it wrote, so
 * that a run with the library can be compared with one without.
 */
#include "calls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define AS_ENUMERATOR(result, name, parameters) CALL_##name,
enum call { SYNERGY_CALLS(AS_ENUMERATOR) CALLS };

/* What a program calls that was compiled with _FORTIFY_SOURCE. */
ssize_t __recvfrom_chk(int fd, void *buffer, size_t size, size_t room, int flags,
                       struct sockaddr *address, socklen_t *length);
ssize_t __recv_chk(int fd, void *buffer, size_t size, size_t room, int flags);
ssize_t __read_chk(int fd, void *buffer, size_t size, size_t room);
int __poll_chk(struct pollfd *fds, nfds_t count, int timeout, size_t room);
int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
                const sigset_t *mask, size_t room);

static uint64_t state;

/* splitmix64 (Steele, Lea, Flood 2014), which is the same everywhere. */
static uint64_t random_number(void) {
    uint64_t z = state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

static unsigned below(unsigned bound) {
    return (unsigned)(random_number() % bound);
}

enum { PAGE = 4096, FDS = 12 };
static char *page;     /* readable, writable; the next one is not there */
static char *readonly; /* readable */
static int fds[FDS];
static struct sockaddr_in6 mine[FDS];

static char *room(void) {
    switch (below(10)) {
    case 0:
        return NULL;
    case 1:
        return (char *)1;
    case 2:
        return page + PAGE; /* nothing is there */
    case 3:
        return readonly + below(64);
    case 4:
        return (char *)-1L;
    case 5:
    case 6:
        return page + PAGE - below(40); /* ends in the middle of it */
    default:
        return page + below(3000);
    }
}

static socklen_t length(void) {
    static const socklen_t some[] = {0,  1,  2,   4,   15,   16,         24,          27,
                                     28, 29, 128, 129, 4096, 0x7fffffff, 0x80000000U, 0xffffffffU};
    return some[below(sizeof some / sizeof *some)];
}

static size_t size(void) {
    static const size_t some[] = {0, 1, 2, 16, 64, 512, 4000, PAGE, 1U << 20};
    return some[below(sizeof some / sizeof *some)];
}

static int descriptor(void) {
    static const int odd[] = {-1, -2, 1000, 65535, 65536, 1 << 20, 0x7fffffff, (int)0x80000000};
    return below(8) == 0 ? odd[below(8)] : fds[below(FDS)];
}

/* (Not MSG_FASTOPEN, which begins a connection: that takes its own time, whatever the program does,
 * and so would what later calls return.) */
static int flags(void) {
    static const int some[] = {0,           MSG_PEEK,         MSG_TRUNC,     MSG_ERRQUEUE, MSG_OOB,
                               MSG_WAITALL, MSG_CMSG_CLOEXEC, ~MSG_FASTOPEN, 0x40000000};
    return some[below(9)] | MSG_DONTWAIT;
}

/* A length that is one, or a pointer to one that is none. */
static socklen_t *length_pointer(void) {
    if (below(4) == 0)
        return (socklen_t *)room();
    socklen_t *at = (socklen_t *)(page + 3072 + 8 * below(16));
    *at = length();
    return at;
}

static struct msghdr *message(void) {
    if (below(6) == 0)
        return (struct msghdr *)room();
    struct msghdr *header = (struct msghdr *)(page + 3200);
    struct iovec *data = (struct iovec *)(page + 3300);
    data->iov_base = room();
    data->iov_len = size();
    *header = (struct msghdr){.msg_name = room(),
                              .msg_namelen = length(),
                              .msg_iov = below(8) ? data : (struct iovec *)room(),
                              .msg_iovlen = below(8) ? 1 : below(3000),
                              .msg_control = below(3) ? NULL : room(),
                              .msg_controllen = below(3) ? 0 : size()};
    return header;
}

static struct mmsghdr *messages(void) {
    if (below(6) == 0)
        return (struct mmsghdr *)room();
    struct mmsghdr *all = (struct mmsghdr *)(page + 3400);
    for (int i = 0; i < 3; i++)
        all[i].msg_hdr = (struct msghdr){.msg_name = room(), .msg_namelen = length()};
    return all;
}

static struct sockaddr *address(void) {
    if (below(3) == 0)
        return (struct sockaddr *)room();
    struct sockaddr_in6 *at = (struct sockaddr_in6 *)(page + 3600);
    *at = mine[below(FDS)];
    if (below(6) == 0)
        at->sin6_family = (sa_family_t)below(12);
    return (struct sockaddr *)at;
}

/* A limit that nobody has. */
static int no_limit(void) {
    return 16 + (int)below(1000);
}

/* One that is there, or can't be: others come and go. */
static pid_t some_process(void) {
    static const pid_t some[] = {0, 0, 1, -1, 0x7fffffff};
    return some[below(5)];
}

static const char *no_program(void) {
    static char long_name[5000];
    memset(long_name, 'x', sizeof long_name - 1);
    const char *some[] = {"", "no-such-program", "/no/such/program", "/dev/null", long_name};
    return some[below(5)];
}

static pid_t child;

/* What a spawn says is an errno. */
static long spawned(int error) {
    if (error == 0)
        waitpid(child, NULL, 0);
    return error;
}

static long forked(pid_t process, int is_daemon) {
    int status = 0;
    if (process == 0)
        _exit(is_daemon ? daemon(1, 1) != 0 : 0); /* (Its parent ends with 0, too.) */
    if (process > 0)
        waitpid(process, &status, 0);
    return process < 0 ? -1 : status;
}

/* (Not IP_RECVERR: of a punch's errors, and of the program's own at that moment, none may come.) */
static const struct {
    int level, name;
} options[] = {{SOL_SOCKET, SO_KEEPALIVE}, {SOL_SOCKET, SO_RCVTIMEO}, {SOL_SOCKET, SO_LINGER},
               {SOL_SOCKET, SO_TYPE},      {SOL_SOCKET, 999},         {SOL_SOCKET, 80},
               {IPPROTO_TCP, TCP_NODELAY}, {IPPROTO_TCP, TCP_MD5SIG}, {IPPROTO_TCP, TCP_MD5SIG_EXT},
               {IPPROTO_IP, 80},           {IPPROTO_IPV6, 80},        {-1, 1}};

static int set_option(int fd, const void *value) {
    unsigned which = below(sizeof options / sizeof *options);
    return setsockopt(fd, options[which].level, options[which].name, value, length());
}

static int get_option(int fd, void *value) {
    unsigned which = below(sizeof options / sizeof *options);
    return getsockopt(fd, options[which].level, options[which].name, value, length_pointer());
}

static void open_all(void) {
    for (int i = 0; i < FDS; i++) {
        int type = i < 4 ? SOCK_STREAM : SOCK_DGRAM;
        if (i >= 9) { /* what is no socket of the internet */
            int pair[2];
            if (i == 9)
                socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair), fds[i] = pair[0],
                                                                          close(pair[1]);
            else if (i == 10)
                fds[i] = open("/dev/null", O_RDWR);
            else
                fds[i] = epoll_create1(0);
            continue;
        }
        fds[i] = socket(AF_INET6, type | SOCK_NONBLOCK, 0);
        struct sockaddr_in6 any = {.sin6_family = AF_INET6};
        if (i % 3 == 1)
            any.sin6_addr = in6addr_loopback;
        if (bind(fds[i], (struct sockaddr *)&any, sizeof any) != 0)
            perror("bind"), exit(2);
        socklen_t room_there = sizeof mine[i];
        getsockname(fds[i], (struct sockaddr *)&mine[i], &room_there);
        mine[i].sin6_addr = in6addr_loopback;
        if (i < 3)
            listen(fds[i], 4);
    }
}

/* A client for one of the listeners, gone before the next call. */
static void call_a_listener(void) {
    int client = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (client < 0)
        return;
    struct linger at_once = {.l_onoff = 1};
    setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    connect(client, (struct sockaddr *)&mine[below(3)], sizeof mine[0]);
    close(client);
}

static uint64_t written(void) {
    uint64_t hash = 0xcbf29ce484222325U;
    for (int i = 0; i < PAGE; i++)
        hash = (hash ^ (unsigned char)page[i]) * 0x100000001b3U;
    return hash;
}

int main(int count, char **values) {
    state = count > 1 ? strtoull(values[1], NULL, 10) : 1;
    long calls = count > 2 ? atol(values[2]) : 1000;
    /* At the same addresses in each run, since pointers are among what is written. */
    page = mmap((void *)0x10000000, PAGE, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    readonly =
        mmap((void *)0x20000000, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    open_all();
    static const struct timespec no_time;
    for (long i = 0; i < calls; i++) {
        /* Ports differ from run to run, so what an address was written to is not compared, but its
         * length is. */
        memset(page, 0x55, PAGE);
        const char *name = "";
        long result = 0;
        int fd = descriptor();
        void *where = room();
        if (below(16) == 0)
            call_a_listener();
        if (below(16) == 0)
            sendto(fds[4], "x", 1, MSG_DONTWAIT, (struct sockaddr *)&mine[4 + below(5)],
                   sizeof mine[0]);
        errno = 0;
        enum call call = (enum call)below(CALLS);
#define CALLED(number, expression)                                                                 \
    case CALL_##number:                                                                            \
        name = #number;                                                                            \
        result = expression;                                                                       \
        break
        switch (call) {
            CALLED(bind, bind(fd, address(), length()));
            /* (One stays as it is.) */
            CALLED(listen, listen(fd == fds[3] ? -1 : fd, (int)length()));
            /* (Those of the internet stay as they are: AF_UNSPEC takes their port away.) */
            CALLED(connect, connect(fd <= fds[8] ? -1 : fd, address(), length()));
            CALLED(accept, accept(fd, where, length_pointer()));
            CALLED(accept4,
                   accept4(fd, where, length_pointer(), below(3) ? SOCK_NONBLOCK : flags()));
            CALLED(recvfrom, recvfrom(fd, room(), size(), flags(), where, length_pointer()));
            CALLED(__recvfrom_chk,
                   __recvfrom_chk(fd, room(), size(), SIZE_MAX, flags(), where, length_pointer()));
            CALLED(recvmsg, recvmsg(fd, message(), flags()));
            CALLED(recvmmsg, recvmmsg(fd, messages(), below(4) ? 3 : length(), flags(), NULL));
            CALLED(recv, recv(fd, where, size(), flags()));
            CALLED(__recv_chk, __recv_chk(fd, where, size(), SIZE_MAX, flags()));
            CALLED(read, read(fd, where, size()));
            CALLED(__read_chk, __read_chk(fd, where, size(), SIZE_MAX));
            CALLED(sendto, sendto(fd, room(), size(), flags() | MSG_NOSIGNAL, address(), length()));
            CALLED(sendmsg, sendmsg(fd, message(), flags() | MSG_NOSIGNAL));
            CALLED(sendmmsg,
                   sendmmsg(fd, messages(), below(4) ? 3 : length(), flags() | MSG_NOSIGNAL));
            CALLED(epoll_ctl,
                   epoll_ctl(below(3) ? fds[11] : descriptor(), (int)below(5), fd, where));
            CALLED(poll, poll(where, below(3) ? below(4) : length(), 0));
            CALLED(__poll_chk, __poll_chk(where, below(3) ? below(4) : length() >> 4, 0, SIZE_MAX));
            CALLED(ppoll, ppoll(where, below(3) ? below(4) : length(), &no_time, NULL));
            CALLED(__ppoll_chk, __ppoll_chk(where, below(3) ? below(4) : length() >> 4, &no_time,
                                            NULL, SIZE_MAX));
            CALLED(select, select((int)(below(2) ? below(1100) : length()), where,
                                  below(2) ? NULL : (fd_set *)room(), NULL,
                                  &(struct timeval){.tv_sec = 0}));
            CALLED(pselect, pselect((int)(below(2) ? below(1100) : length()), where, NULL, NULL,
                                    &no_time, NULL));
            CALLED(chroot, chroot(where));
            CALLED(setuid, setuid(below(2) ? geteuid() : (uid_t)-1));
            CALLED(setreuid, setreuid((uid_t)-1, below(2) ? geteuid() : (uid_t)-1));
            CALLED(setresuid, setresuid((uid_t)-1, below(2) ? geteuid() : (uid_t)-1, (uid_t)-1));
            CALLED(setrlimit64, setrlimit64((__rlimit_resource_t)no_limit(), where));
            CALLED(prlimit64,
                   prlimit64(some_process(),
                             (__rlimit_resource_t)(below(2) ? RLIMIT_NOFILE : no_limit()), NULL,
                             where));
            CALLED(execve, execve(where, (char *const *)room(), (char *const *)room()));
            CALLED(execv, execv(where, (char *const *)room()));
            CALLED(execvp, execvp(no_program(), (char *const *)room()));
            CALLED(execvpe, execvpe(no_program(), (char *const *)room(), (char *const *)room()));
            CALLED(fexecve,
                   fexecve(below(2) ? -1 : 1000, (char *const *)room(), (char *const *)room()));
            /* (libc counts the words.) */
            CALLED(posix_spawn, spawned(posix_spawn(&child, where, NULL, NULL,
                                                    (char *const[]){NULL}, (char *const *)room())));
            CALLED(posix_spawnp,
                   spawned(posix_spawnp(&child, no_program(), NULL, NULL, (char *const[]){NULL},
                                        (char *const *)room())));
            CALLED(fork, forked(fork(), 0));
            CALLED(daemon, forked(fork(), 1));
            CALLED(close, close(fd >= 0 && fd < 1000 ? -1 : fd));
            CALLED(close_range, close_range(50 + below(9), below(2) ? below(50) : 60,
                                            below(2) ? 0 : 0x7fff0000));
            CALLED(closefrom, (closefrom(60 + (int)below(100000)), 0));
            CALLED(dup2, dup2(fd, below(2) ? fd : -1 - (int)below(5)));
            CALLED(dup3, dup3(fd, below(2) ? fd : -5, (int)below(3)));
            /* (libc trusts the stream that it is given.) */
            CALLED(fclose,
                   fclose(below(2) ? fmemopen(page, PAGE, "r") : fdopen(dup(fds[below(9)]), "r+")));
            CALLED(shutdown, shutdown(fd, below(2) ? 3 + (int)below(100) : -1));
            CALLED(setsockopt, set_option(fd, where));
            CALLED(getsockopt, get_option(fd, where));
            CALLED(prctl, prctl(PR_SET_SECCOMP, below(2) ? 2 : 77, where, 0, 0));
            CALLED(syscall, below(2) ? syscall(SYS_seccomp, below(2) ? 1 : 77, length(), where)
                                     : syscall(SYS_close, -1));
        case CALLS:
            break;
        }
        int error = result < 0 ? errno : 0;
        if ((*name == 'a' || strncmp(name, "dup", 3) == 0) && result >= 0) {
            if (*name == 'a')
                close((int)result);
            else if (result != fd)
                return 3;
        }
        memset(page + 3600, 0, sizeof mine[0]);
        /* Everything but addresses that the kernel filled in, also on its way to a bad pointer. */
        int is_address = (*name == 'a' || strstr(name, "recv")) && (result >= 0 || error == EFAULT);
        printf("%ld %s %d: %ld %d %llx\n", i, name, fd, result, error,
               is_address ? 0ULL : (unsigned long long)written());
    }
    return 0;
}
