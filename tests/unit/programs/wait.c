/* Listens (or binds for datagrams), says its port, and serves until its standard input ends: every
 * connection is told its peer's address as the server sees it. wait tcp|udp [main-thread-exits] */
#include "program.h"

static void *serve(void *arg) {
    int listener = *(int *)arg;
    for (;;) {
        struct sockaddr_storage from;
        socklen_t length = sizeof from;
        int fd = accept(listener, (struct sockaddr *)&from, &length);
        if (fd < 0)
            continue;
        struct sockaddr_in *v4 = (struct sockaddr_in *)&from;
        char text[64];
        int size =
            snprintf(text, sizeof text, "%s %d\n", inet_ntoa(v4->sin_addr), ntohs(v4->sin_port));
        if (write(fd, text, (size_t)size) != size)
            printf("write: %s\n", strerrorname_np(errno));
        close(fd);
    }
    return NULL;
}

static void *end_with_input(void *unused) {
    (void)unused;
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    _exit(0);
}

int main(int count, char **words) {
    NEED(count >= 2);
    static int fd;
    fd = socket(AF_INET, strcmp(words[1], "udp") == 0 ? SOCK_DGRAM : SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t length = sizeof at;
    NEED(bind(fd, (struct sockaddr *)&at, sizeof at) == 0);
    NEED(getsockname(fd, (struct sockaddr *)&at, &length) == 0);
    if (strcmp(words[1], "tcp") == 0)
        NEED(listen(fd, 16) == 0);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    pthread_t thread;
    NEED(pthread_create(&thread, NULL, end_with_input, NULL) == 0);
    if (strcmp(words[1], "tcp") == 0)
        NEED(pthread_create(&thread, NULL, serve, &fd) == 0);
    if (count > 2)
        pthread_exit(NULL);
    pthread_join(thread, NULL);
    return 0;
}
