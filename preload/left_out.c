#include "left_out.h"

#include "aside.h"
#include "keepers.h"
#include "settings_look.h"

#include <netinet/in.h>
#include <string.h>

uint32_t left_out_port;

/* The last socket that was bound to a port of which SYNERGY_PORTS says nothing. */
static struct {
    int fd;
    uint16_t port;
} left_out = {.fd = -1};

static int is_loopback(const struct sockaddr *address) {
    union synergy_endpoint endpoint = {0};
    /* (Of IPv6 the caller has checked no more than that there is room for IPv4.) */
    memcpy(&endpoint, address, sizeof endpoint.v4);
    if (endpoint.any.sa_family == AF_INET)
        return ntohl(endpoint.v4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    memcpy(&endpoint, address, sizeof endpoint.v6);
    return IN6_IS_ADDR_LOOPBACK(&endpoint.v6.sin6_addr);
}

void leave_out(int fd, const struct sockaddr *address, uint16_t port) {
    if (is_loopback(address))
        return;
    left_out.fd = fd;
    left_out.port = port;
}

void left_out_listens(int fd) {
    if (fd == left_out.fd && !knows_keepers())
        __atomic_store_n(&left_out_port, left_out.port, __ATOMIC_RELAXED);
}

void say_left_out_port(void) {
    static int is_said;
    unsigned port = __atomic_exchange_n(&left_out_port, 0, __ATOMIC_RELAXED);
    const char *ports = settings_variable("SYNERGY_PORTS");
    if (port == 0 || knows_keepers() || !ports || !settings_variable("SYNERGY_PEERS") ||
        __atomic_exchange_n(&is_said, 1, __ATOMIC_RELAXED))
        return;
    char text[] = "00000", *digits = text + sizeof text - 1;
    do
        *--digits = (char)('0' + port % 10);
    while (port /= 10);
    SAY("synergy: warning: nothing is punched: port ", digits,
        " is not among those of SYNERGY_PORTS: ", ports);
}
