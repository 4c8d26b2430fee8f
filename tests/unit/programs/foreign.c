/* A server of another C library than the one that the library was built with: compiled by
 * test_machines.py. It says its port, and serves until its standard input ends. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static void serve_one(int listener) {
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    int fd = accept(listener, (struct sockaddr *)&from, &length);
    if (fd < 0)
        return;
    dprintf(fd, "%s %d\n", inet_ntoa(from.sin_addr), ntohs(from.sin_port));
    close(fd);
}

int main(void) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t length = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct pollfd ready[] = {{.fd = fd, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 16) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &length) != 0)
        return 1;
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    while (poll(ready, 2, -1) > 0) {
        char byte;
        if (ready[0].revents)
            serve_one(fd);
        if (ready[1].revents && read(0, &byte, 1) <= 0)
            break;
    }
    return 0;
}
