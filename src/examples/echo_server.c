/*
 * echo_server tcp|udp|sctp LADDR LPORT PADDR PPORT
 *
 * A server for one peer, by the plain sockets API and one call more: what comes from the peer goes
 * back to it.
 *
 *   cc echo_server.c $(pkg-config --cflags --libs synergy)
 */
#include <sys/socketsynergy.h>

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct addrinfo *resolve(const char *address, const char *port, int type) {
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = type, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int error = getaddrinfo(address, port, &hints, &found);
    if (error != 0) {
        fprintf(stderr, "%s port %s: %s\n", address, port, gai_strerror(error));
        exit(2);
    }
    return found;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void open_hole(int fd, const struct addrinfo *peer) {
    int result;
    if (peer->ai_family == AF_INET6)
        result = synergy(fd, SYNERGY_HOPLIMIT_GUESS, (struct sockaddr_in6 *)peer->ai_addr);
    else
        result = synergy_to(fd, peer->ai_addr, peer->ai_addrlen, SYNERGY_HOPLIMIT_GUESS);
    if (result != 0)
        fail("synergy");
}

static void echo_datagrams(int fd) {
    for (;;) {
        char data[2048];
        struct sockaddr_storage from;
        socklen_t length = sizeof from;
        ssize_t got = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length);
        if (got < 0)
            fail("recvfrom");
        sendto(fd, data, (size_t)got, 0, (struct sockaddr *)&from, length);
    }
}

static void echo_connections(int fd) {
    for (;;) {
        int connection = accept(fd, NULL, NULL);
        if (connection < 0)
            fail("accept");
        char data[2048];
        ssize_t got;
        while ((got = read(connection, data, sizeof data)) > 0)
            if (write(connection, data, (size_t)got) != got)
                break;
        close(connection);
    }
}

int main(int argc, char **argv) {
    if (argc != 6 || (strcmp(argv[1], "tcp") != 0 && strcmp(argv[1], "udp") != 0 &&
                      strcmp(argv[1], "sctp") != 0)) {
        fprintf(stderr, "usage: %s tcp|udp|sctp LADDR LPORT PADDR PPORT\n", argv[0]);
        return 2;
    }
    int is_stream = strcmp(argv[1], "udp") != 0;
    int protocol = strcmp(argv[1], "sctp") == 0 ? IPPROTO_SCTP : 0;
    int type = is_stream ? SOCK_STREAM : SOCK_DGRAM;
    struct addrinfo *local = resolve(argv[2], argv[3], type);
    struct addrinfo *peer = resolve(argv[4], argv[5], type);

    int fd = socket(local->ai_family, type, protocol);
    if (fd < 0 || bind(fd, local->ai_addr, local->ai_addrlen) != 0)
        fail("bind");
    if (is_stream && listen(fd, 5) != 0)
        fail("listen");
    open_hole(fd, peer);
    freeaddrinfo(local);
    freeaddrinfo(peer);
    printf("ready\n");
    fflush(stdout);
    if (is_stream)
        echo_connections(fd);
    else
        echo_datagrams(fd);
    return 0;
}
