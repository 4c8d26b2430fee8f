/* A library whose constructor, when it is opened, has a thread bind, and listens itself: both while
 * the loader's lock is held. */
#include "program.h"

static void *bind_once(void *unused) {
    (void)unused;
    int fd = bound_at(SOCK_STREAM, 0);
    char byte;
    recvfrom(-1, &byte, 1, 0, NULL, NULL);
    close(fd);
    return NULL;
}

__attribute__((constructor)) static void late(void) {
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, bind_once, NULL) == 0);
    printf("late thread: %d\n", pthread_join(thread, NULL));
    int fd = listener_at(0);
    printf("late listen: %d\n", fd >= 0);
    close(fd);
}
