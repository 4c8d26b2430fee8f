/* A plug-in that calls synergy() by name, and brings the library along. */
#include "program.h"
#include "sys/socketsynergy.h"

int call_synergy(void) {
    int fd = listener_at(0);
    struct sockaddr_in6 peer = any_v6(5555);
    NEED(inet_pton(AF_INET6, "2001:db8:b::5", &peer.sin6_addr) == 1);
    int result = synergy(fd, 2, &peer);
    close(fd);
    return result;
}
