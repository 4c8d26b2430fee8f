/* Children that accept from an inherited listener, listen on what was bound before the fork, and
 * bind and listen themselves; a vfork child that closes what it inherits. */
#include "program.h"

static void serve_one(int listener, uint16_t port) {
    pid_t child = fork();
    if (child == 0) {
        struct sockaddr_in6 from;
        socklen_t length = sizeof from;
        int fd = accept(listener, (struct sockaddr *)&from, &length);
        _exit(fd >= 0 && write(fd, "c", 1) == 1 ? 0 : 1);
    }
    int client = client_of(port);
    char byte = 0;
    ssize_t got = read(client, &byte, 1);
    int status;
    NEED(waitpid(child, &status, 0) == child);
    printf("child served: %zd %c, status %d\n", got, byte, status);
    close(client);
}

int main(void) {
    alarm(60);
    int bound = bound_at(SOCK_STREAM, 0); /* listens in the child only */
    int listener = listener_at(0);
    uint16_t port = port_of(listener);
    serve_one(listener, port);
    serve_one(listener, port);

    pid_t child = fork();
    if (child == 0) {
        NEED(listen(bound, 4) == 0);
        int own = listener_at(0);
        int one = client_of(port_of(bound)), two = client_of(port_of(own));
        NEED(accept(bound, NULL, NULL) >= 0);
        NEED(accept(own, NULL, NULL) >= 0);
        (void)one;
        (void)two;
        _exit(0);
    }
    int status;
    NEED(waitpid(child, &status, 0) == child);
    printf("child listened: status %d\n", status);

    child = vfork();
    if (child == 0) {
        close(listener);
        close(bound);
        execl("/bin/true", "true", NULL);
        _exit(1);
    }
    NEED(waitpid(child, &status, 0) == child);
    printf("vfork child: status %d\n", status);
    serve_one(listener, port);
    printf("close %d %d\n", close(listener), close(bound));
    return 0;
}
