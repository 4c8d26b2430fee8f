/*
 * What becomes of a server that forbids itself one system call, on pain of death: each in turn, in
 * a child of its own, which does all that servers do. What ends there is what the program itself
 * calls, and prints the same without the library.
 */
#include "program.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

enum { CALLS = 470 };

static void serve(void) {
    int on = 1, listener = listener_at(0), port = port_of(listener), client = client_of(port);
    struct sockaddr_in6 from = any_v6(0), somewhere = loopback_v6(9);
    struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    socklen_t length = sizeof from;
    struct pollfd waiting = {.fd = listener, .events = POLLIN};
    poll(&waiting, 1, 1000);
    int accepted = accept4(listener, (struct sockaddr *)&from, &length, 0);
    setsockopt(listener, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    length = sizeof on;
    getsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &on, &length);
    int datagrams = bound_at(SOCK_DGRAM, 0);
    char byte = 0;
    length = sizeof from;
    recvfrom(datagrams, &byte, 1, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
    sendto(datagrams, &byte, 1, 0, (struct sockaddr *)&somewhere, sizeof somewhere);
    close(bound_at(SOCK_STREAM, (uint16_t)port)); /* in use */
    dup2(listener, 60);
    shutdown(listener, SHUT_RD);
    listen(listener, 3);
    connect(listener, &nowhere, sizeof nowhere);
    close(60);
    close(listener);
    close(accepted);
    close(client);
    close_range((unsigned)datagrams, (unsigned)datagrams, 0);
}

static void give_rights_up(void) {
    struct rlimit limit = {.rlim_cur = 10, .rlim_max = 10};
    execve("/nonexistent", (char *[]){"x", NULL}, (char *[]){NULL});
    setrlimit(RLIMIT_NPROC, &limit);
    chroot("/");
    setuid(65534);
}

static void forbid(unsigned call) {
    struct sock_filter filter[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, call},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS},
        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    struct rlimit none = {0};
    setrlimit(RLIMIT_CORE, &none);
    NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    NEED(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

int main(void) {
    close(listener_at(0));
    for (unsigned call = 0; call < CALLS; call++) {
        int status = 0;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            forbid(call);
            serve();
            give_rights_up();
            serve();
            exit(0);
        }
        NEED(waitpid(child, &status, 0) == child);
        printf("%u: %d\n", call, status);
    }
    return 0;
}
