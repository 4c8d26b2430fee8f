/* Threads that all accept from one listener, some of them cancelled. */
#include "program.h"

static int listener;
static volatile int accepted_count;

static void *accept_many(void *unused) {
    (void)unused;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        NEED(fd >= 0);
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
        NEED(write(fd, "x", 1) == 1);
        close(fd);
        __atomic_fetch_add(&accepted_count, 1, __ATOMIC_SEQ_CST);
        pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    }
    return NULL;
}

static void *receive(void *fd) {
    char byte;
    recvfrom(*(int *)fd, &byte, 1, 0, NULL, NULL);
    return NULL;
}

static int is_cancelled(pthread_t thread) {
    void *result;
    pthread_cancel(thread);
    NEED(pthread_join(thread, &result) == 0);
    return result == PTHREAD_CANCELED;
}

int main(void) {
    alarm(60);
    listener = listener_at(0);
    uint16_t port = port_of(listener);
    pthread_t threads[8];
    for (int i = 0; i < 8; i++)
        NEED(pthread_create(&threads[i], NULL, accept_many, NULL) == 0);
    for (int i = 0; i < 400; i++) {
        int client = client_of(port);
        char byte;
        NEED(read(client, &byte, 1) == 1);
        close(client);
    }
    usleep(50000);
    printf("accepted %d\n", accepted_count);
    int cancelled = 0;
    for (int i = 0; i < 8; i++)
        cancelled += is_cancelled(threads[i]);
    printf("cancelled %d\n", cancelled);
    int datagrams = bound_at(SOCK_DGRAM, 0);
    pthread_t receiver;
    NEED(pthread_create(&receiver, NULL, receive, &datagrams) == 0);
    usleep(50000);
    printf("cancelled %d\n", is_cancelled(receiver));
    /* The listener is as usable as before. */
    int client = client_of(port), fd = accept(listener, NULL, NULL);
    printf("then %d\n", fd >= 0);
    close(fd);
    close(client);
    printf("close %d\n", close(listener));
    return 0;
}
