/*
 * A server that gives up what it has in the order that it is told:
 *
 *   steps_server PORT STEP...
 *
 * and then serves: each line that a client sends comes back after "ADDRESS PORT PID ". In one
 * process without threads, since it may be forbidden to make more. A step that fails ends it.
 *
 *   socket bind listen       what every server does, on all IPv6 addresses
 *   late-options             TCP_DEFER_ACCEPT, as apache sets it after listen()
 *   fork                     the parent ends at once; vanish: by SIGKILL
 *   child                    the parent stays, and has the socket too
 *   raw-fork _Fork           the same as `child` by the system call, and as POSIX.1-2024 has it
 *   daemon                   daemon(3)
 *   setsid
 *   setuid setresuid setreuid seteuid setfsuid
 *                            to nobody
 *   raw-setresuid            by the system call, as Go does and libcap-ng
 *   back                     seteuid() to root
 *   initgroups               setgid() and initgroups() of nobody's
 *   capset                   no capabilities; keep-capset: all but CAP_NET_BIND_SERVICE, by
 *                            PR_SET_KEEPCAPS across setresuid()
 *   chroot                   into an empty directory, and chdir()
 *   unshare-net              another network, and with `setns` back
 *   nproc nofile             setrlimit(): no further process, no further descriptor than 8
 *   dumpable                 PR_SET_DUMPABLE 0
 *   no-new-privs
 *   filter                   a system call filter that ends whoever calls anything that serving
 *                            does not take; filter-exec: that lets no program be executed
 *   cleanenv                 wipes the environment
 *   line                     waits for a byte at standard input
 *   high                     moves the socket to a number from 100 on
 *   pass                     passes the socket by SCM_RIGHTS to a process that has waited before
 *   exec                     executes itself with the socket, for the steps that remain
 *   exec-as-nobody           the same by a child that is nobody before
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NOBODY = 65534, CLIENTS = 64, LINE = 256 };

static int server = -1, network = -1;
static uint16_t port;

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    _exit(1);
}

#define NEED(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail(#condition);                                                                      \
    } while (0)

static void take_capabilities(uint32_t left) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[2] = {{.effective = left, .permitted = left}};
    NEED(syscall(SYS_capset, &header, sets) == 0);
}

/* Filters as hardened servers have them: a list of what is allowed, and the end for the rest. */
static void filter_calls(void) {
    static const int allowed[] = {
        SYS_accept,
        SYS_accept4,
        SYS_read,
        SYS_write,
        SYS_close,
        SYS_ppoll,
        SYS_exit_group,
#ifdef SYS_poll
        SYS_poll,
#endif
        SYS_sendto,
        SYS_recvfrom,
        SYS_fcntl,
        SYS_getpid,
        SYS_rt_sigprocmask,
        SYS_rt_sigreturn,
        SYS_fstat,
        SYS_newfstatat,
        SYS_getsockopt,
        SYS_setsockopt,
        SYS_getpeername,
        SYS_getsockname,
        SYS_socket,
        SYS_connect,
        SYS_sendmsg,
        SYS_recvmsg,
        SYS_dup3,
        SYS_futex,
        SYS_restart_syscall,
        SYS_bind,
        SYS_mmap,
        SYS_munmap,
        SYS_nanosleep,
        SYS_geteuid,
        SYS_rt_sigpending,
        SYS_rt_sigtimedwait,
    };
    enum { COUNT = sizeof allowed / sizeof *allowed };
    struct sock_filter rules[COUNT + 3];
    int at = 0;
    rules[at++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < COUNT; i++)
        rules[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)allowed[i],
                                                   (unsigned char)(COUNT - i), 0);
    rules[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    rules[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = (unsigned short)at, .filter = rules};
    NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    NEED(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void filter_exec(void) {
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof rules / sizeof *rules, .filter = rules};
    NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    NEED(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void limit(int which, rlim_t most) {
    struct rlimit limit = {.rlim_cur = most, .rlim_max = most};
    NEED(setrlimit(which, &limit) == 0);
}

static void stay_as_parent(pid_t child) {
    NEED(child >= 0);
    if (child == 0)
        return;
    for (;;)
        pause();
}

static void pass_to(int connection) {
    char byte = 'x';
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof server)] = {0};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *extra = CMSG_FIRSTHDR(&message);
    extra->cmsg_level = SOL_SOCKET;
    extra->cmsg_type = SCM_RIGHTS;
    extra->cmsg_len = CMSG_LEN(sizeof server);
    memcpy(CMSG_DATA(extra), &server, sizeof server);
    NEED(sendmsg(connection, &message, 0) == 1);
}

static int passed_from(int connection) {
    char byte;
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof server)] = {0};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    NEED(recvmsg(connection, &message, 0) == 1);
    struct cmsghdr *extra = CMSG_FIRSTHDR(&message);
    NEED(extra && extra->cmsg_type == SCM_RIGHTS);
    int fd;
    memcpy(&fd, CMSG_DATA(extra), sizeof fd);
    return fd;
}

/* The process that is to serve has been there, and has waited for something, before it gets the
 * socket from the one that made it, which then ends. */
static void pass(void) {
    int ends[2];
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    pid_t child = fork();
    NEED(child >= 0);
    if (child != 0) {
        pass_to(ends[0]);
        _exit(0);
    }
    close(ends[0]);
    close(server);
    struct pollfd ready = {.fd = ends[1], .events = POLLIN};
    NEED(poll(&ready, 1, -1) == 1);
    server = passed_from(ends[1]);
    close(ends[1]);
}

static void execute(char **rest, char *own) {
    char number[16], at[16];
    snprintf(number, sizeof number, "%u", port);
    snprintf(at, sizeof at, "=%d", server);
    char *words[64] = {own, number, at};
    for (int i = 0; rest[i] && i < 60; i++)
        words[3 + i] = rest[i];
    fcntl(server, F_SETFD, 0);
    execv("/proc/self/exe", words);
    fail("exec");
}

static int is(const char *step, const char *name) {
    return strcmp(step, name) == 0;
}

static void make_server(const char *step) {
    static const int on = 1;
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    if (is(step, "socket")) {
        server = socket(AF_INET6, SOCK_STREAM, 0);
        NEED(server >= 0 && setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    } else if (is(step, "bind")) {
        NEED(bind(server, (struct sockaddr *)&any, sizeof any) == 0);
    } else {
        NEED(listen(server, 100) == 0);
    }
}

static void change_user(const char *step) {
    if (is(step, "setuid"))
        NEED(setuid(NOBODY) == 0);
    else if (is(step, "setresuid"))
        NEED(setresuid(NOBODY, NOBODY, NOBODY) == 0);
    else if (is(step, "raw-setresuid"))
        NEED(syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0);
    else if (is(step, "setreuid"))
        NEED(setreuid(NOBODY, NOBODY) == 0);
    else if (is(step, "seteuid"))
        NEED(seteuid(NOBODY) == 0);
    else if (is(step, "setfsuid"))
        setfsuid(NOBODY);
    else if (is(step, "initgroups"))
        NEED(initgroups("nobody", NOBODY) == 0 && setgid(NOBODY) == 0);
    else if (is(step, "capset"))
        take_capabilities(0);
    else if (is(step, "keep-capset")) {
        NEED(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0);
        NEED(setresuid(NOBODY, NOBODY, NOBODY) == 0);
        take_capabilities(1U << CAP_NET_BIND_SERVICE);
    } else
        NEED(seteuid(0) == 0);
}

static void change_process(const char *step) {
    pid_t child;
    if (is(step, "fork") || is(step, "vanish")) {
        NEED((child = fork()) >= 0);
        if (child != 0 && is(step, "vanish"))
            kill(getpid(), SIGKILL);
        if (child != 0)
            _exit(0);
    } else if (is(step, "child"))
        stay_as_parent(fork());
    else if (is(step, "raw-fork"))
        stay_as_parent((pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL));
    else if (is(step, "_Fork"))
        stay_as_parent(_Fork());
    else if (is(step, "daemon"))
        NEED(daemon(0, 1) == 0);
    else
        NEED(setsid() >= 0);
}

static void take(const char *step, char **rest, char *own) {
    static const int defer = 30;
    static const char *const users[] = {
        "setuid",     "setresuid", "raw-setresuid", "setreuid", "seteuid", "setfsuid",
        "initgroups", "capset",    "keep-capset",   "back",     NULL};
    static const char *const processes[] = {"fork",  "vanish", "child",  "raw-fork",
                                            "_Fork", "daemon", "setsid", NULL};
    if (is(step, "socket") || is(step, "bind") || is(step, "listen")) {
        make_server(step);
        return;
    }
    for (const char *const *user = users; *user; user++)
        if (is(step, *user)) {
            change_user(step);
            return;
        }
    for (const char *const *process = processes; *process; process++)
        if (is(step, *process)) {
            change_process(step);
            return;
        }
    if (is(step, "late-options"))
        NEED(setsockopt(server, IPPROTO_TCP, TCP_DEFER_ACCEPT, &defer, sizeof defer) == 0);
    else if (is(step, "chroot")) {
        char place[] = "/tmp/steps.XXXXXX";
        NEED(mkdtemp(place) && chroot(place) == 0 && chdir("/") == 0);
    } else if (is(step, "line")) {
        char byte;
        NEED(read(STDIN_FILENO, &byte, 1) == 1);
    } else if (is(step, "unshare-net")) {
        NEED((network = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)) >= 0);
        NEED(unshare(CLONE_NEWNET) == 0);
    } else if (is(step, "setns"))
        NEED(setns(network, CLONE_NEWNET) == 0 && close(network) == 0);
    else if (is(step, "nproc"))
        limit(RLIMIT_NPROC, 0);
    else if (is(step, "nofile"))
        limit(RLIMIT_NOFILE, 8);
    else if (is(step, "dumpable"))
        NEED(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
    else if (is(step, "no-new-privs"))
        NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    else if (is(step, "filter"))
        filter_calls();
    else if (is(step, "filter-exec"))
        filter_exec();
    else if (is(step, "cleanenv"))
        clearenv();
    else if (is(step, "high")) {
        int high = fcntl(server, F_DUPFD, 100);
        NEED(high >= 100 && close(server) == 0);
        server = high;
    } else if (is(step, "pass"))
        pass();
    else if (is(step, "exec"))
        execute(rest, own);
    else if (is(step, "exec-as-nobody")) {
        pid_t child = fork();
        if (child == 0) {
            NEED(setresuid(NOBODY, NOBODY, NOBODY) == 0);
            execute(rest, own);
        }
        stay_as_parent(child);
    } else {
        errno = EINVAL;
        fail(step);
    }
}

struct client {
    char name[80];
    char line[LINE];
    size_t length;
};

/* False when it has hung up. */
static int answer(int fd, struct client *client) {
    ssize_t got = read(fd, client->line + client->length, LINE - client->length);
    if (got <= 0 || client->length + (size_t)got == LINE)
        return 0;
    client->length += (size_t)got;
    char *end = memchr(client->line, '\n', client->length);
    if (!end)
        return 1;
    size_t size = (size_t)(end - client->line) + 1;
    char text[sizeof client->name + LINE];
    int length =
        snprintf(text, sizeof text, "%s %d %.*s", client->name, getpid(), (int)size, client->line);
    client->length -= size;
    memmove(client->line, end + 1, client->length);
    return write(fd, text, (size_t)length) == length;
}

static void serve(void) {
    static struct client clients[CLIENTS];
    struct pollfd ready[CLIENTS] = {{.fd = server, .events = POLLIN}};
    int count = 1;
    for (;;) {
        /* Not more than it has descriptors for: others wait in the listener's queue. */
        ready[0].events = count < CLIENTS ? POLLIN : 0;
        NEED(poll(ready, (nfds_t)count, -1) > 0 || errno == EINTR);
        for (int i = count - 1; i > 0; i--)
            if (ready[i].revents && !answer(ready[i].fd, &clients[i])) {
                close(ready[i].fd);
                ready[i] = ready[--count];
                clients[i] = clients[count];
            }
        struct sockaddr_in6 from;
        socklen_t length = sizeof from;
        int got = ready[0].revents ? accept(server, (struct sockaddr *)&from, &length) : -1;
        if (got < 0)
            continue;
        char address[INET6_ADDRSTRLEN];
        inet_ntop(AF_INET6, &from.sin6_addr, address, sizeof address);
        snprintf(clients[count].name, sizeof clients[count].name, "%s %u", address,
                 ntohs(from.sin6_port));
        clients[count].length = 0;
        ready[count++] = (struct pollfd){.fd = got, .events = POLLIN};
    }
}

int main(int count, char **words) {
    NEED(count >= 3);
    signal(SIGCHLD, SIG_DFL);
    port = (uint16_t)atoi(words[1]);
    for (int i = 2; i < count; i++)
        if (words[i][0] == '=')
            server = atoi(words[i] + 1);
        else
            take(words[i], words + i + 1, words[0]);
    serve();
}
