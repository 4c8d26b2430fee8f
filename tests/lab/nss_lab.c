/* A plug-in of libc's resolver (GNU C Library manual, "Name Service Switch"), as mdns and others
 * are: it calls by name what a preloaded library intercepts, on descriptors of its thread's. It
 * knows no name. */
#include <netinet/in.h>
#include <nss.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct gaih_addrtuple;

enum nss_status _nss_lab_gethostbyname4_r(const char *name, struct gaih_addrtuple **found,
                                          char *buffer, size_t size, int *error, int *host_error,
                                          int32_t *ttl) {
    (void)name, (void)found, (void)buffer, (void)size, (void)error, (void)host_error, (void)ttl;
    /* A number that the server has something else under. */
    int number = atoi(getenv("NSS_LAB_DESCRIPTOR"));
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 any = {.sin6_family = AF_INET6};
    char byte;
    dup2(fd, number);
    close(fd);
    bind(number, (struct sockaddr *)&any, sizeof any);
    poll(&(struct pollfd){.fd = number, .events = POLLIN}, 1, 1);
    recvfrom(number, &byte, 1, MSG_DONTWAIT, NULL, NULL);
    close(number);
    return NSS_STATUS_NOTFOUND;
}
