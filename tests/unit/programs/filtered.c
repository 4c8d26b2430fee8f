/*
 * A server that has a system call filter already when it binds, listens and closes:
 *
 *   filtered tcp|udp first|second FILE
 *
 * "second": there is another socket of its from before the filter. The file names what is allowed
 * (only.h); all else ends the process.
 */
#include "only.h"

static void say(const char *line) {
    ssize_t written = write(STDOUT_FILENO, line, strlen(line));
    (void)written;
}

static int open_server(int type) {
    int fd = socket(AF_INET, type, 0);
    struct sockaddr_in at = {.sin_family = AF_INET};
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) != 0 ||
        (type == SOCK_STREAM && listen(fd, 16) != 0))
        return -1;
    return fd;
}

int main(int count, char **words) {
    NEED(count == 4);
    int type = strcmp(words[1], "udp") == 0 ? SOCK_DGRAM : SOCK_STREAM;
    int earlier = strcmp(words[2], "second") == 0 ? open_server(type) : -1;
    allow_only(words[3], SCMP_ACT_KILL_PROCESS);
    int fd = open_server(type);
    say(fd >= 0 ? "serves\n" : "serves not\n");
    say(close(fd) == 0 ? "closed\n" : "not closed\n");
    if (earlier >= 0)
        say(close(earlier) == 0 ? "closed\n" : "not closed\n");
    return 0;
}
