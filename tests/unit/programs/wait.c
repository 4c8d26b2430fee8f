/* Listens (or binds for datagrams), says its port, and serves until its standard input ends: every
 * connection is told its peer's address as the server sees it. wait tcp|udp [WAY], where WAY is
 * what happens to the process before it serves. */
#include "child.h"
#include "only.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* False: nobody came out. */
static int serve_one(int listener) {
    struct sockaddr_storage from;
    socklen_t length = sizeof from;
    int fd = accept(listener, (struct sockaddr *)&from, &length);
    if (fd < 0) {
        int error = errno;
        poll(NULL, 0, 5); /* (no room) */
        errno = error;
        return 0;
    }
    struct sockaddr_in *v4 = (struct sockaddr_in *)&from;
    char text[64];
    int size = snprintf(text, sizeof text, "%s %d\n", inet_ntoa(v4->sin_addr), ntohs(v4->sin_port));
    if (write(fd, text, (size_t)size) != size)
        printf("write: %s\n", strerrorname_np(errno));
    close(fd);
    return 1;
}

static void *serve(void *arg) {
    for (;;)
        serve_one(*(int *)arg);
    return NULL;
}

static void do_nothing(int signal) {
    (void)signal;
}

/* One thread for everything, which must wait in poll() alone: it says so for each byte, and what
 * accept() says of a connection that poll() saw. SIGUSR1 begins a call again, SIGUSR2 ends it. */
static void serve_by_poll(int listener) {
    struct sigaction restarting = {.sa_handler = do_nothing, .sa_flags = SA_RESTART},
                     ending = {.sa_handler = do_nothing};
    NEED(sigaction(SIGUSR1, &restarting, NULL) == 0 && sigaction(SIGUSR2, &ending, NULL) == 0);
    struct pollfd ready[] = {{.fd = listener, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    while (poll(ready, 2, -1) > 0) {
        char byte;
        if (ready[0].revents && !serve_one(listener)) {
            printf("%s\n", strerrorname_np(errno));
            fflush(stdout);
        }
        if (ready[1].revents && read(0, &byte, 1) <= 0)
            _exit(0);
        if (ready[1].revents) {
            printf("here\n");
            fflush(stdout);
        }
    }
}

/* For each byte, and so when somebody waits already, but it does not know. */
static void serve_when_told(int listener) {
    for (char byte; read(0, &byte, 1) > 0;)
        if (!serve_one(listener)) {
            printf("%s\n", strerrorname_np(errno));
            fflush(stdout);
        }
}

/* What a server at its limit of descriptors closes for the first byte that it reads. */
static int spare[16], spare_count;

static int server_fd; /* closed for a 'c' */

static void *end_with_input(void *unused) {
    (void)unused;
    char byte;
    while (read(0, &byte, 1) > 0) {
        while (spare_count > 0)
            close(spare[--spare_count]);
        if (byte == 'c') {
            close(server_fd);
            printf("closed\n");
            fflush(stdout);
        }
    }
    _exit(0);
}

static int open_server(const char *transport) {
    int fd = socket(AF_INET, strcmp(transport, "udp") == 0 ? SOCK_DGRAM : SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET};
    NEED(bind(fd, (struct sockaddr *)&at, sizeof at) == 0);
    if (strcmp(transport, "tcp") == 0)
        NEED(listen(fd, 16) == 0);
    return fd;
}

/* From here on in a child, the parent ends. */
static void go_on_as_child(pid_t child) {
    NEED(child >= 0);
    if (child > 0)
        _exit(0);
}

/* What this program does not do itself from now on ends it, in whatever thread. */
static void forbid_all_but_the_loop(void) {
    static const int forbidden[] = {
        SYS_socket,         SYS_connect,     SYS_bind,       SYS_listen,     SYS_sendto,
        SYS_sendmsg,        SYS_recvfrom,    SYS_recvmsg,    SYS_getsockopt, SYS_setsockopt,
        SYS_getsockname,    SYS_getpeername, SYS_openat,     SYS_readlink,   SYS_execve,
        SYS_fcntl,          SYS_ioctl,       SYS_dup3,       SYS_getpid,     SYS_epoll_wait,
        SYS_timerfd_create, SYS_ppoll,       SYS_getdents64, SYS_pidfd_open,
    };
    enum { COUNT = sizeof forbidden / sizeof *forbidden };
    struct sock_filter rules[2 * COUNT + 2] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
    for (int i = 0; i < COUNT; i++) {
        rules[1 + 2 * i] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)forbidden[i], 0, 1);
        rules[2 + 2 * i] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    }
    rules[2 * COUNT + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog filter = {sizeof rules / sizeof *rules, rules};
    NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    NEED(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter) == 0);
}

/* A child by a way that no library sees. */
static pid_t fork_unseen(void) {
    return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

/* The listener gets a number that stood for a connection, which no library saw closed. */
static int moved_to_a_connections_number(int listener) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t length = sizeof at;
    int client = socket(AF_INET, SOCK_STREAM, 0);
    NEED(getsockname(listener, (struct sockaddr *)&at, &length) == 0);
    NEED(connect(client, (struct sockaddr *)&at, length) == 0);
    int fd = accept(listener, NULL, NULL);
    NEED(fd >= 0 && syscall(SYS_close, fd) == 0 && dup(listener) == fd);
    close(client);
    return fd;
}

/* A child by vfork() makes the first call that this process's library sees. */
static void poll_in_child(int listener) {
    struct pollfd ready = {.fd = listener, .events = POLLIN};
    pid_t child = vfork();
    if (child == 0) {
        poll(&ready, 1, 0);
        _exit(0);
    }
    NEED(waitpid(child, NULL, 0) == child);
}

/* "left-N" descriptors may be opened from now on; "later-N": as soon as a byte is read, and with
 * "-and-M" so many from now on. "-hard": a limit that this user can't raise again. */
static void lower_limit(const char *how, int listener) {
    int left = atoi(strchr(how, '-') + 1), later = 0;
    if (strncmp(how, "later", 5) == 0) {
        later = left;
        left = strstr(how, "-and-") ? atoi(strstr(how, "-and-") + 5) : 0;
    }
    for (; spare_count < later; spare_count++)
        NEED((spare[spare_count] = dup(listener)) >= 0);
    int next = dup(listener);
    struct rlimit limit;
    NEED(next >= 0 && close(next) == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = (rlim_t)(next + left);
    if (strstr(how, "-hard"))
        limit.rlim_max = limit.rlim_cur;
    NEED(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

/* What happens on the way from listen() to accept(). */
static void go(const char *way, const char *program, const char *transport, int *fd) {
    char number[16];
    snprintf(number, sizeof number, "%d", *fd);
    if (strcmp(way, "fork") == 0) {
        go_on_as_child(fork());
    } else if (strcmp(way, "unseen-fork") == 0) {
        go_on_as_child(fork_unseen());
    } else if (strcmp(way, "daemon") == 0) {
        NEED(daemon(0, 1) == 0);
    } else if (strcmp(way, "exec") == 0) {
        execl(program, program, transport, "inherited", number, NULL);
    } else if (strcmp(way, "fork-exec") == 0) {
        go_on_as_child(fork());
        execl(program, program, transport, "inherited", number, NULL);
    } else if (strcmp(way, "far-exec") == 0) {
        snprintf(number, sizeof number, "%d", fcntl(*fd, F_DUPFD, 200));
        execl(program, program, transport, "inherited", number, NULL);
    } else if (strcmp(way, "chroot") == 0) {
        NEED(chroot("/sys") == 0 && chdir("/") == 0);
    } else if (strcmp(way, "nobody") == 0) {
        NEED(setgid(65534) == 0 && setuid(65534) == 0);
    } else if (strcmp(way, "user-namespace") == 0) {
        NEED(unshare(CLONE_NEWUSER) == 0);
    } else if (strcmp(way, "network-namespace") == 0) {
        NEED(unshare(CLONE_NEWNET) == 0);
    } else if (strcmp(way, "connections-number") == 0) {
        *fd = moved_to_a_connections_number(*fd);
    } else if (strcmp(way, "vfork-first") == 0) {
        poll_in_child(*fd);
    } else if (strncmp(way, "only-", 5) == 0 || strncmp(way, "unseen-only-", 12) == 0) {
        uint32_t otherwise = strstr(way, "only-kill:")   ? SCMP_ACT_KILL_PROCESS
                             : strstr(way, "only-trap:") ? SCMP_ACT_TRAP
                                                         : SCMP_ACT_ERRNO(EPERM);
        (*way == 'o' ? allow_only : allow_only_unseen)(strchr(way, ':') + 1, otherwise);
    } else if (strchr(way, '/')) {
        char how[32];
        snprintf(how, sizeof how, "%.*s", (int)(strchr(way, '/') - way), way);
        for (int i = 0; i < 3; i++)
            have_child(how, strchr(way, '/') + 1, *fd);
    } else if (strncmp(way, "left-", 5) == 0 || strncmp(way, "later-", 6) == 0) {
        lower_limit(way, *fd);
    } else if (strcmp(way, "filter") == 0) {
        forbid_all_but_the_loop();
    } else if (strcmp(way, "far") == 0) {
        /* As far as a process may without more rights: among the last that it can have. */
        struct rlimit limit;
        NEED(getrlimit(RLIMIT_NOFILE, &limit) == 0);
        limit.rlim_cur = limit.rlim_max;
        NEED(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        int far = fcntl(*fd, F_DUPFD, (int)limit.rlim_max - 3);
        NEED(far >= 1000 && close(*fd) == 0);
        *fd = far;
    }
}

int main(int count, char **words) {
    NEED(count >= 2);
    static int fd;
    const char *transport = words[1], *way = count > 2 ? words[2] : "";
    int is_inherited = count > 3,
        polls = strcmp(way, "polls") == 0 || strcmp(way, "vfork-first") == 0;
    fd = is_inherited ? atoi(words[3]) : open_server(transport);
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t length = sizeof at;
    NEED(getsockname(fd, (struct sockaddr *)&at, &length) == 0);
    go(way, words[0], transport, &fd);
    server_fd = fd;
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    if (polls)
        serve_by_poll(fd);
    if (strcmp(way, "when-told") == 0) {
        serve_when_told(fd);
        return 0;
    }
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, end_with_input, NULL) == 0);
    if (strcmp(transport, "tcp") == 0)
        NEED(pthread_create(&thread, NULL, serve, &fd) == 0);
    if (strcmp(way, "main-thread-exits") == 0)
        pthread_exit(NULL);
    if (strcmp(way, "no-processes") == 0) {
        struct rlimit none = {0};
        NEED(setrlimit(RLIMIT_NPROC, &none) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
    }
    pthread_join(thread, NULL);
    return 0;
}
