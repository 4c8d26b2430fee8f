/* Waits for the descriptor that it was given, by select, pselect, poll, ppoll, recvmsg or recvmmsg,
 * and for the end of its standard input; says what the call gave. Compiled by test_machines.py for
 * a 32-bit machine whose time has 64 bits. time64 HOW FD */
#include "program.h"

#include <sys/select.h>

_Static_assert(sizeof(time_t) == 8, "-D_TIME_BITS=64");

int main(int count, char **words) {
    NEED(count == 3);
    int fd = atoi(words[2]), result = -2;
    char buffer[16];
    fd_set readable;
    FD_ZERO(&readable);
    FD_SET(fd, &readable);
    struct timeval shortly = {.tv_usec = 1000};
    struct timespec soon = {.tv_nsec = 1000000};
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    struct iovec room = {.iov_base = buffer, .iov_len = sizeof buffer};
    struct mmsghdr messages = {.msg_hdr = {.msg_iov = &room, .msg_iovlen = 1}};
    if (strcmp(words[1], "select") == 0)
        result = select(fd + 1, &readable, NULL, NULL, &shortly);
    else if (strcmp(words[1], "pselect") == 0)
        result = pselect(fd + 1, &readable, NULL, NULL, &soon, NULL);
    else if (strcmp(words[1], "ppoll") == 0)
        result = ppoll(&ready, 1, &soon, NULL);
    else if (strcmp(words[1], "recvmsg") == 0)
        result = (int)recvmsg(fd, &messages.msg_hdr, MSG_DONTWAIT);
    else if (strcmp(words[1], "recvmmsg") == 0)
        result = recvmmsg(fd, &messages, 1, MSG_DONTWAIT, &soon);
    printf("%d\n", result);
    fflush(stdout);
    while (read(0, buffer, sizeof buffer) > 0)
        ;
    return 0;
}
