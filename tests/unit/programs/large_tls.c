/* Threads with more data of their own than a small stack has room for. */
#include "program.h"

static _Thread_local char data[600 * 1024];

static void *serve(void *unused) {
    (void)unused;
    data[0] = 1;
    int fd = listener_at(0), client = client_of(port_of(fd));
    printf("accepted: %d\n", accept(fd, NULL, NULL) >= 0);
    close(client);
    close(fd);
    return NULL;
}

int main(void) {
    alarm(60);
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, serve, NULL) == 0);
    printf("joined: %d\n", pthread_join(thread, NULL));
    return 0;
}
