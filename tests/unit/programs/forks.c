/* Forks a process of several threads, while the engine works, COUNT times: each child binds,
 * listens, takes a connection, and ends. A deadlock is a time-out. forks COUNT */
#include "program.h"

#include <stdatomic.h>

static atomic_int stop;

static void *bind_and_close(void *unused) {
    (void)unused;
    while (!stop) {
        int fd = listener_at(0);
        int datagrams = bound_at(SOCK_DGRAM, 0);
        close(fd);
        close(datagrams);
    }
    return NULL;
}

static int serve(void) {
    int fd = listener_at(0);
    int client = client_of(port_of(fd));
    int accepted = accept(fd, NULL, NULL);
    int good = accepted >= 0 && write(accepted, "x", 1) == 1;
    char byte;
    good = good && read(client, &byte, 1) == 1;
    close(accepted);
    close(client);
    close(fd);
    return good;
}

int main(int count, char **words) {
    NEED(count == 2);
    int forks = atoi(words[1]), good = 0;
    int held = listener_at(0);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        NEED(pthread_create(&threads[i], NULL, bind_and_close, NULL) == 0);
    for (int i = 0; i < forks; i++) {
        pid_t child = fork();
        NEED(child >= 0);
        if (child == 0)
            _exit(serve() ? 0 : 1);
        int status;
        NEED(waitpid(child, &status, 0) == child);
        good += status == 0;
    }
    stop = 1;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    close(held);
    printf("%d of %d\n", good, forks);
    return good == forks ? 0 : 1;
}
