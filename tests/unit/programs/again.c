/* A port that was closed is free at once, for this process and for others, by whatever call it was
 * closed; and nothing of the engine's is in the server's descriptor table. again HOW tcp|udp */
#include "child.h"

#include <dirent.h>
#include <sys/syscall.h>

static void list_descriptors(void) {
    for (int fd = 0; fd < 256; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            printf(" %d", fd);
    printf("\n");
}

/* bind() as a process without the library does it. */
static const char *bound_elsewhere(int type, uint16_t port) {
    int fd = socket(AF_INET6, type, 0);
    struct sockaddr_in6 at = any_v6(port);
    const char *result =
        syscall(SYS_bind, fd, &at, sizeof at) == 0 ? "bound" : strerrorname_np(errno);
    syscall(SYS_close, fd);
    return result;
}

static void close_by(const char *how, int fd) {
    if (strcmp(how, "close") == 0) {
        NEED(close(fd) == 0);
    } else if (strcmp(how, "closefrom") == 0) {
        closefrom(3);
    } else if (strcmp(how, "close_range") == 0) {
        NEED(close_range((unsigned)fd, ~0U, 0) == 0);
    } else if (strcmp(how, "dup2") == 0) {
        NEED(dup2(0, fd) == fd);
        NEED(close(fd) == 0);
    } else if (strcmp(how, "fclose") == 0) {
        FILE *stream = fdopen(fd, "r");
        NEED(stream && fclose(stream) == 0);
    } else if (strcmp(how, "moved") == 0) {
        int elsewhere = fcntl(fd, F_DUPFD, 100);
        NEED(elsewhere >= 0 && close(fd) == 0 && close(elsewhere) == 0);
    } else if (strcmp(how, "vfork") == 0) {
        /* The child's close() is of its own table, but it shares our memory. */
        pid_t child = vfork();
        if (child == 0) {
            close(fd);
            execl("/bin/true", "true", NULL);
            _exit(1);
        }
        NEED(waitpid(child, NULL, 0) == child);
        NEED(close(fd) == 0);
    } else if (strcmp(how, "fork") == 0) {
        pid_t child = fork();
        if (child == 0)
            _exit(close(fd) != 0);
        int status;
        NEED(waitpid(child, &status, 0) == child && status == 0);
        NEED(close(fd) == 0);
    } else if (strchr(how, '/')) {
        char birth[32];
        snprintf(birth, sizeof birth, "%.*s", (int)(strchr(how, '/') - how), how);
        have_child(birth, strchr(how, '/') + 1, fd);
        NEED(close(fd) == 0);
    } else {
        NEED(!"a way to close");
    }
}

int main(int count, char **words) {
    NEED(count == 3);
    int type = strcmp(words[2], "udp") == 0 ? SOCK_DGRAM : SOCK_STREAM;
    int first = bound_at(type, 0);
    NEED(first >= 0);
    uint16_t port = port_of(first);
    if (type == SOCK_STREAM)
        NEED(listen(first, 5) == 0);
    list_descriptors();
    close_by(words[1], first);
    printf("elsewhere: %s\n", bound_elsewhere(type, port));
    for (int i = 0; i < 20; i++) {
        int next = bound_at(type, port);
        printf("again: %s\n", next >= 0 ? "bound" : strerrorname_np(errno));
        if (next < 0)
            break;
        if (type == SOCK_STREAM)
            printf("listen: %d\n", listen(next, 5));
        list_descriptors();
        close_by(words[1], next);
    }
    return 0;
}
