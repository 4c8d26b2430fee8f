/* successor ROUNDS [unseen]: a server on a port, killed by SIGKILL; the next one, which is another
 * program for all that it knows, binds that port at once. Says how many of them could not.
 * `unseen`: no hook sees bind(), so that what the library has to wait for comes to light. */
#include "program.h"

#include <spawn.h>
#include <sys/syscall.h>

extern char **environ;

static int serve(uint16_t port, int is_seen) {
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    int result = is_seen ? bind(fd, (struct sockaddr *)&at, sizeof at)
                         : (int)syscall(SYS_bind, fd, &at, sizeof at);
    char failed = result != 0 || listen(fd, 16) != 0;
    NEED(write(STDOUT_FILENO, &failed, 1) == 1);
    pause();
    return 0;
}

/* A port that nobody has just now. */
static uint16_t free_port(void) {
    struct sockaddr_in6 at = {.sin6_family = AF_INET6};
    socklen_t length = sizeof at;
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    NEED(syscall(SYS_bind, fd, &at, sizeof at) == 0);
    NEED(getsockname(fd, (struct sockaddr *)&at, &length) == 0);
    syscall(SYS_close, fd);
    return ntohs(at.sin6_port);
}

int main(int argc, char **argv) {
    if (argc == 4)
        return serve((uint16_t)atoi(argv[1]), strcmp(argv[2], "unseen") != 0);
    int rounds = argc > 1 ? atoi(argv[1]) : 0, failures = 0;
    char port[8], mode[8], end[] = "end";
    snprintf(port, sizeof port, "%d", free_port());
    snprintf(mode, sizeof mode, "%s", argc > 2 ? argv[2] : "seen");
    char *words[] = {argv[0], port, mode, end, NULL};
    for (int round = 0; round < rounds; round++) {
        int ends[2];
        pid_t child;
        char failed = 1;
        posix_spawn_file_actions_t actions;
        NEED(pipe2(ends, O_CLOEXEC) == 0);
        NEED(posix_spawn_file_actions_init(&actions) == 0);
        NEED(posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO) == 0);
        NEED(posix_spawn(&child, "/proc/self/exe", &actions, NULL, words, environ) == 0);
        NEED(read(ends[0], &failed, 1) == 1);
        failures += failed;
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        close(ends[0]);
        close(ends[1]);
        posix_spawn_file_actions_destroy(&actions);
    }
    printf("%d of %d could not\n", failures, rounds);
    return 0;
}
