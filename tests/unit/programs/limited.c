/* A server at its limit of open files: its own calls are what they are without the library. */
#include "program.h"

#include <sys/resource.h>

int main(void) {
    alarm(60);
    int first = listener_at(0);
    uint16_t port = port_of(first);
    int client = client_of(port);
    struct rlimit limit = {.rlim_cur = (rlim_t)client + 3, .rlim_max = (rlim_t)client + 3};
    NEED(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int second = socket(AF_INET6, SOCK_STREAM, 0), third = socket(AF_INET6, SOCK_DGRAM, 0);
    struct sockaddr_in6 at = any_v6(0);
    printf("socket %d %d\n", second >= 0, third >= 0);
    /* The table is full now. */
    printf("bind %d\n", bind(second, (struct sockaddr *)&at, sizeof at));
    printf("bind %d\n", bind(third, (struct sockaddr *)&at, sizeof at));
    printf("listen %d\n", listen(second, 4));
    int fd = accept(first, NULL, NULL);
    printf("accept %s\n", fd >= 0 ? "accepted" : strerrorname_np(errno));
    printf("close %d\n", close(third));
    fd = accept(first, NULL, NULL);
    printf("accept %s\n", fd >= 0 ? "accepted" : strerrorname_np(errno));
    printf("close %d %d %d\n", close(fd), close(second), close(first));
    return 0;
}
