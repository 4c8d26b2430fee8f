#include "exchange.h"

#include "aside.h"
#include "libc_calls.h"

#include <asm/socket.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

/* The one that takes a `struct timeval` of longs, on every system. */
#ifndef SO_RCVTIMEO_OLD
#define SO_RCVTIMEO_OLD SO_RCVTIMEO
#define SO_SNDTIMEO_OLD SO_SNDTIMEO
#endif

/* `struct timeval`, in the kernel's longs. */
struct patience {
    long seconds, micros;
};

static void wait_no_longer_than(const struct patience *patience, int option, int connection) {
    kernel(SYS_setsockopt, connection, SOL_SOCKET, option, patience, sizeof *patience);
}

void be_patient(int connection) {
    static const struct patience patience = {.seconds = 2};
    wait_no_longer_than(&patience, SO_SNDTIMEO_OLD, connection);
    wait_no_longer_than(&patience, SO_RCVTIMEO_OLD, connection);
}

void wait_for_answer(int connection, unsigned milliseconds) {
    const struct patience patience = {.seconds = milliseconds / 1000,
                                      .micros = (long)(milliseconds % 1000) * 1000};
    wait_no_longer_than(&patience, SO_RCVTIMEO_OLD, connection);
}

int connect_to(const struct synergy_address *address, enum whose whose, struct owner *owner) {
    /* A keeper's queue has room for hundreds: one that is full is no keeper's, or of no use now.
     * (The least that there is; O_NONBLOCK would have to be taken back.) */
    static const struct patience none = {.micros = 1};
    int fd = (int)kernel(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    size_t size = address->length < sizeof address->name ? address->length : sizeof address->name;
    memcpy(name.sun_path + 1, address->name, size);
    socklen_t length = sizeof *owner;
    be_patient(fd);
    if (whose == PERHAPS_STRANGERS)
        wait_no_longer_than(&none, SO_SNDTIMEO_OLD, fd);
    if (kernel(SYS_connect, fd, &name, offsetof(struct sockaddr_un, sun_path) + 1 + size) == 0 &&
        kernel(SYS_getsockopt, fd, SOL_SOCKET, SO_PEERCRED, owner, &length) == 0) {
        if (whose == PERHAPS_STRANGERS)
            be_patient(fd);
        return fd;
    }
    /* (unix(7): EAGAIN where nobody has taken up the waiting ones in that time.) */
    int error = errno == EAGAIN ? ETIMEDOUT : errno;
    kernel(SYS_close, fd);
    errno = error;
    return -1;
}

int send_request(int connection, struct synergy_request *request, int pass) {
    request->version = SYNERGY_WIRE_VERSION;
    struct iovec data = {.iov_base = request, .iov_len = sizeof *request};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof pass)] = {0};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (pass >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *extra = CMSG_FIRSTHDR(&message);
        extra->cmsg_level = SOL_SOCKET;
        extra->cmsg_type = SCM_RIGHTS;
        extra->cmsg_len = CMSG_LEN(sizeof pass);
        memcpy(CMSG_DATA(extra), &pass, sizeof pass);
    }
    /* (unix(7): ETOOMANYREFS where all processes of this user together have more descriptors on
     * their way than this one may have open.) */
    enum { PATIENCE_MS = 1000 };
    for (int waited = 0; kernel(SYS_sendmsg, connection, &message, MSG_NOSIGNAL) < 0; waited++) {
        if (errno != ETOOMANYREFS || waited == PATIENCE_MS)
            return errno;
        wait_a_millisecond();
    }
    return 0;
}

/* With MSG_PEEK in `flags` the answer stays in the queue, and what came along with it too. */
static int receive_with(int connection, struct synergy_answer *answer, int *received, int flags,
                        int *is_cut_off) {
    struct iovec data = {.iov_base = answer, .iov_len = sizeof *answer};
    /* Room for one descriptor exactly. */
    _Alignas(struct cmsghdr) char control[CMSG_LEN(sizeof *received)];
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (received) {
        *received = -1;
        message.msg_control = control;
        message.msg_controllen = sizeof control;
    }
    ssize_t size = kernel(SYS_recvmsg, connection, &message, MSG_CMSG_CLOEXEC | flags);
    if (is_cut_off)
        *is_cut_off = size >= 0 && (message.msg_flags & MSG_CTRUNC) != 0;
    if (size < 0)
        return errno == EAGAIN ? ETIMEDOUT : errno;
    struct cmsghdr *extra = received ? CMSG_FIRSTHDR(&message) : NULL;
    if (extra && extra->cmsg_level == SOL_SOCKET && extra->cmsg_type == SCM_RIGHTS &&
        extra->cmsg_len == CMSG_LEN(sizeof *received))
        memcpy(received, CMSG_DATA(extra), sizeof *received);
    if (size == sizeof *answer && answer->version == SYNERGY_WIRE_VERSION)
        return 0;
    if (received && *received >= 0) {
        kernel(SYS_close, *received);
        *received = -1;
    }
    return size == 0 ? EPIPE : EPROTO;
}

int receive_answer(int connection, struct synergy_answer *answer, int *received) {
    return receive_with(connection, answer, received, 0, NULL);
}

/* What comes back must find a free number, or it is gone: one is held for it. */
int send_and_receive(int connection, struct synergy_request *request, int pass,
                     struct synergy_answer *answer, int *received) {
    int held = received ? (int)kernel(SYS_fcntl, connection, F_DUPFD_CLOEXEC, 0) : -1;
    int error = received && held < 0 ? errno : send_request(connection, request, pass);
    if (held >= 0)
        kernel(SYS_close, held);
    return error == 0 && answer ? receive_answer(connection, answer, received) : error;
}

int is_trusted(const struct owner *keeper, uid_t owner) {
    return keeper->user == 0 || keeper->user == geteuid() || keeper->user == owner;
}

int ask_keeper_at(const struct synergy_address *address, uid_t owner,
                  struct synergy_request *request, int pass, struct synergy_answer *answer,
                  int *received) {
    struct owner found;
    int connection = connect_to(address, PERHAPS_STRANGERS, &found);
    if (connection < 0)
        return errno;
    int error = is_trusted(&found, owner)
                    ? send_and_receive(connection, request, pass, answer, received)
                    : EPERM;
    kernel(SYS_close, connection);
    return error;
}

/* What comes back must find a free number, or it is gone. So it stays in the queue until it has
 * one: the bell's, if there is no other, or whichever is next where another thread takes that. */
int receive_fetched(int connection, int *bell, struct synergy_answer *answer, int *received) {
    enum { PATIENCE_MS = 1000 };
    int error, is_cut_off;
    for (int waited = 0;; waited++) {
        error = receive_with(connection, answer, received, MSG_PEEK, &is_cut_off);
        if (error != 0 || *received >= 0 || !is_cut_off || waited == PATIENCE_MS)
            break;
        if (*bell >= 0) {
            kernel(SYS_close, *bell);
            *bell = -1;
        } else {
            wait_a_millisecond();
        }
    }
    if (error == 0)
        error = receive_answer(connection, answer, NULL);
    return error;
}
