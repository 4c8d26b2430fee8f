/* Another library, whose constructor calls what is intercepted before the shim could set anything
 * up, and which listens there. */
#include "program.h"

__attribute__((constructor)) static void early(void) {
    char byte;
    printf("early close: %d %s\n", close(-1), strerrorname_np(errno));
    printf("early recvfrom: %zd %s\n", recvfrom(-1, &byte, 1, 0, NULL, NULL),
           strerrorname_np(errno));
    int fd = bound_at(SOCK_STREAM, 0);
    printf("early listen: %d\n", listen(fd, 4));
    int client = client_of(port_of(fd));
    int accepted = accept(fd, NULL, NULL);
    printf("early accept: %d\n", accepted >= 0);
    close(accepted);
    close(client);
    printf("early close: %d\n", close(fd));
}
