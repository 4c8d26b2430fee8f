/* Moments at which a library that works within the server's calls would be felt. awkward WAY */
#include "program.h"

#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* Allocation as the program's own, so that it can see who allocates when. */
static _Thread_local int is_allocating;
static _Atomic(int) allocated_within;

static void *(*libc_malloc)(size_t);
static void (*within_malloc)(void);

void *malloc(size_t size) {
    if (!libc_malloc)
        *(void **)&libc_malloc = dlsym(RTLD_NEXT, "malloc");
    if (is_allocating) {
        /* With the allocator's lock held this would wait for ever. */
        allocated_within++;
        return libc_malloc(size);
    }
    is_allocating = 1;
    if (within_malloc)
        within_malloc();
    void *memory = libc_malloc(size);
    is_allocating = 0;
    return memory;
}

static void use_sockets(void) {
    int listener = socket(AF_INET6, SOCK_STREAM, 0), datagrams = socket(AF_INET6, SOCK_DGRAM, 0);
    struct sockaddr_in6 at = any_v6(0);
    socklen_t length = sizeof at;
    char byte;
    bind(listener, (struct sockaddr *)&at, sizeof at);
    listen(listener, 4);
    bind(datagrams, (struct sockaddr *)&at, sizeof at);
    struct pollfd ready = {.fd = listener, .events = POLLIN};
    poll(&ready, 1, 0);
    recvfrom(datagrams, &byte, 1, MSG_DONTWAIT, (struct sockaddr *)&at, &length);
    fcntl(listener, F_SETFL, O_NONBLOCK);
    accept(listener, NULL, NULL);
    close(datagrams);
    close(listener);
}

/* A handler that interrupts malloc() may bind, listen, receive, accept and close (POSIX). */
static void within_malloc_way(void) {
    within_malloc = use_sockets;
    free(malloc(1));
    within_malloc = NULL;
    printf("allocated meanwhile: %d\n", allocated_within);
}

static void *join_another(void *unused) {
    (void)unused;
    use_sockets();
    return NULL;
}

/* What another library does in its constructor, while dlopen() holds the loader's lock. */
static void dlopen_way(const char *library) {
    void *opened = dlopen(library, RTLD_NOW);
    printf("dlopen: %s\n", opened ? "done" : dlerror());
}

/* A plug-in that is linked with the library goes away, and the server goes on. */
static void plugin_way(const char *library) {
    for (int i = 0; i < 2; i++) {
        void *opened = dlopen(library, RTLD_NOW);
        int (*call)(void) = NULL;
        if (opened)
            *(void **)&call = dlsym(opened, "call_synergy");
        printf("call: %d\n", call ? call() : -2);
        printf("dlclose: %d\n", opened ? dlclose(opened) : -2);
        use_sockets();
    }
}

static void *bind_when_cancelled(void *arg) {
    pthread_cancel(pthread_self());
    int fd = bound_at(SOCK_STREAM, 0);
    *(int *)arg = fd >= 0 && listen(fd, 1) == 0;
    pthread_testcancel();
    return NULL;
}

static void cancel_way(void) {
    int is_listening = 0;
    void *result = NULL;
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, bind_when_cancelled, &is_listening) == 0);
    pthread_join(thread, &result);
    printf("listening %d, then cancelled %d\n", is_listening, result == PTHREAD_CANCELED);
}

static void small_stack_way(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    NEED(pthread_attr_init(&attributes) == 0);
    NEED(pthread_attr_setstacksize(&attributes, 16384) == 0);
    NEED(pthread_create(&thread, &attributes, join_another, NULL) == 0);
    printf("joined: %d\n", pthread_join(thread, NULL));
}

static void *listen_when_told(void *barrier) {
    pthread_barrier_wait(barrier);
    int fd = listener_at(0);
    printf("listens\n");
    return (void *)(long)fd;
}

/* Eight threads' first sockets, at the same moment. */
static void at_once_way(void) {
    pthread_t threads[8];
    pthread_barrier_t barrier;
    NEED(pthread_barrier_init(&barrier, NULL, 8) == 0);
    for (int i = 0; i < 8; i++)
        NEED(pthread_create(&threads[i], NULL, listen_when_told, &barrier) == 0);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
}

/* A child by vfork() has this memory, and other descriptors. */
static void vfork_way(void) {
    int listener = listener_at(0), spare = socket(AF_INET6, SOCK_STREAM, 0);
    uint16_t port = port_of(listener);
    pid_t child = vfork();
    if (child == 0) {
        struct sockaddr_in6 at = any_v6(0);
        close(listener);
        _exit(bind(spare, (struct sockaddr *)&at, sizeof at) == 0 && listen(spare, 1) == 0 ? 0 : 1);
    }
    int status;
    NEED(waitpid(child, &status, 0) == child);
    int client = client_of(port), fd = accept(listener, NULL, NULL);
    printf("child %d, accepted %d\n", status, fd >= 0);
    close(client);
    close(fd);
    close(listener);
    int again = bound_at(SOCK_STREAM, port);
    printf("again: %s\n", again >= 0 || errno == EADDRINUSE ? "as the kernel says" : "?");
}

static void user_namespace_way(void) {
    int listener = listener_at(0);
    int result = unshare(CLONE_NEWUSER);
    printf("unshare: %d %s\n", result, result ? strerrorname_np(errno) : "");
    close(listener);
}

static void lowered_limit_way(void) {
    int listener = listener_at(0);
    uint16_t port = port_of(listener);
    struct rlimit limit = {.rlim_cur = 3, .rlim_max = 3};
    int client = client_of(port);
    NEED(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int fd = accept(listener, NULL, NULL);
    printf("accept: %s\n", fd >= 0 ? "accepted" : strerrorname_np(errno));
    printf("close %d %d\n", close(client), close(listener));
}

/* A listener of the parent's whose number the child closes before its first call. */
static void inherited_way(void) {
    int listener = listener_at(0);
    pid_t child = fork();
    if (child == 0) {
        close(listener);
        struct pollfd ready = {.fd = listener, .events = POLLIN};
        _exit(poll(&ready, 1, 0) == 1 && ready.revents == POLLNVAL ? 0 : 1);
    }
    int status;
    NEED(waitpid(child, &status, 0) == child);
    printf("child %d\n", status);
}

/* Children that serve one connection each. */
static void many_children_way(void) {
    int listener = listener_at(0), served = 0;
    uint16_t port = port_of(listener);
    for (int i = 0; i < 300; i++) {
        int client = client_of(port);
        pid_t child = fork();
        if (child == 0) {
            int fd = accept(listener, NULL, NULL);
            _exit(fd >= 0 && write(fd, "x", 1) == 1 ? 0 : 1);
        }
        char byte;
        int status;
        NEED(waitpid(child, &status, 0) == child);
        served += status == 0 && read(client, &byte, 1) == 1;
        close(client);
    }
    printf("served %d\n", served);
}

/* No child is seen that the server did not start. */
static void wait_way(void) {
    int listener = listener_at(0);
    printf("errno: %d\n", errno);
    pid_t child = wait(NULL);
    printf("wait: %d %s\n", child, strerrorname_np(errno));
    child = waitpid(-1, NULL, __WALL | WNOHANG);
    printf("waitpid: %d %s\n", child, strerrorname_np(errno));
    close(listener);
}

static void stderr_way(void) {
    close(STDERR_FILENO);
    int listener = listener_at(0);
    printf("listener %d\n", listener);
    int client = client_of(port_of(listener)), fd = accept(listener, NULL, NULL);
    char byte;
    printf("said: %zd\n", recv(client, &byte, 1, MSG_DONTWAIT));
    close(fd);
    close(client);
}

/* Listening and closing, each time that somebody has written a byte. */
static void step_way(void) {
    char byte;
    do {
        int listener = listener_at(0);
        close(listener);
        printf("step\n");
    } while (read(0, &byte, 1) == 1);
}

/* More children than a keeper can be told of, when somebody has written a byte. */
static void forks_way(void) {
    int listener = listener_at(0);
    printf("listens\n");
    char byte;
    NEED(read(0, &byte, 1) == 1);
    for (int i = 0; i < 1050; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        NEED(waitpid(child, NULL, 0) == child);
    }
    close(listener);
}

/* Listening a thousand times, one after the other. */
static void often_way(void) {
    int good = 0;
    for (int i = 0; i < 1000; i++) {
        int listener = listener_at(0);
        good += listener == 3;
        close(listener);
    }
    printf("good %d\n", good);
}

/* From now on, one system call is answered like this. */
static void answer(int number, unsigned action) {
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof rules / sizeof *rules, rules};
    NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    NEED(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

static void serve_one(void) {
    for (int i = 0; i < 2; i++) {
        int listener = listener_at(0), client = client_of(port_of(listener));
        int fd = accept(listener, NULL, NULL);
        printf("accepted %d\n", fd >= 0);
        close(fd);
        close(client);
        close(listener);
    }
}

static void no_exec_way(void) {
    answer(SYS_execve, SECCOMP_RET_ERRNO | EPERM);
    serve_one();
}

static void killed_exec_way(void) {
    answer(SYS_execve, SECCOMP_RET_KILL_PROCESS);
    serve_one();
}

/* Which the keeper alone needs. */
static void no_memory_file_way(void) {
    answer(SYS_memfd_create, SECCOMP_RET_ERRNO | EPERM);
    serve_one();
}

static void no_close_range_way(void) {
    answer(SYS_close_range, SECCOMP_RET_ERRNO | ENOSYS);
    serve_one();
}

static void no_processes_way(void) {
    struct rlimit none = {0};
    NEED(setrlimit(RLIMIT_NPROC, &none) == 0);
    NEED(geteuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0));
    serve_one();
}

static void process_namespace_way(void) {
    NEED(unshare(CLONE_NEWPID) == 0);
    serve_one();
    pid_t child = fork();
    if (child == 0)
        _exit(getpid() == 1 ? 0 : 1);
    int status = -1;
    NEED(waitpid(child, &status, 0) == child);
    printf("first child of the namespace: %d\n", status);
}

int main(int count, char **words) {
    alarm(60);
    NEED(count >= 2);
    setvbuf(stdout, NULL, _IOLBF, 0);
    static const struct {
        const char *name;
        void (*go)(void);
    } ways[] = {
        {"within-malloc", within_malloc_way},
        {"cancel", cancel_way},
        {"small-stack", small_stack_way},
        {"at-once", at_once_way},
        {"vfork", vfork_way},
        {"user-namespace", user_namespace_way},
        {"lowered-limit", lowered_limit_way},
        {"inherited", inherited_way},
        {"many-children", many_children_way},
        {"wait", wait_way},
        {"stderr", stderr_way},
        {"often", often_way},
        {"step", step_way},
        {"forks", forks_way},
        {"no-exec", no_exec_way},
        {"killed-exec", killed_exec_way},
        {"no-memory-file", no_memory_file_way},
        {"no-close-range", no_close_range_way},
        {"no-processes", no_processes_way},
        {"process-namespace", process_namespace_way},
    };
    if (count > 2 && strcmp(words[1], "dlopen") == 0)
        dlopen_way(words[2]);
    else if (count > 2 && strcmp(words[1], "plugin") == 0)
        plugin_way(words[2]);
    else
        for (size_t i = 0;; i++) {
            NEED(i < sizeof ways / sizeof *ways);
            if (strcmp(words[1], ways[i].name) == 0) {
                ways[i].go();
                break;
            }
        }
    printf("end\n");
    return 0;
}
