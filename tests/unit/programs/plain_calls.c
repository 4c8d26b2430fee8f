/* The intercepted calls as the kernel has them, to stand between the library and a sanitizer's
 * interceptors, which read what bad pointers point to. Compiled by test_machines.py. */
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CALL(result, name, parameters, ...)                                                        \
    result name parameters {                                                                       \
        return (result)syscall(__VA_ARGS__);                                                       \
    }

CALL(int, listen, (int fd, int backlog), SYS_listen, fd, backlog)
CALL(int, bind, (int fd, const struct sockaddr *address, socklen_t length), SYS_bind, fd, address,
     length)
CALL(int, accept, (int fd, struct sockaddr *address, socklen_t *length), SYS_accept, fd, address,
     length)
CALL(int, accept4, (int fd, struct sockaddr *address, socklen_t *length, int flags), SYS_accept4,
     fd, address, length, flags)
CALL(ssize_t, recvfrom,
     (int fd, void *data, size_t size, int flags, struct sockaddr *address, socklen_t *length),
     SYS_recvfrom, fd, data, size, flags, address, length)
CALL(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), SYS_recvmsg, fd, message, flags)
CALL(int, recvmmsg,
     (int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout),
     SYS_recvmmsg, fd, messages, count, flags, timeout)
CALL(ssize_t, sendto,
     (int fd, const void *data, size_t size, int flags, const struct sockaddr *address,
      socklen_t length),
     SYS_sendto, fd, data, size, flags, address, length)
CALL(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), SYS_sendmsg, fd, message,
     flags)
CALL(int, sendmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags), SYS_sendmmsg, fd,
     messages, count, flags)
CALL(int, epoll_ctl, (int epoll, int operation, int fd, struct epoll_event *event), SYS_epoll_ctl,
     epoll, operation, fd, event)
CALL(int, poll, (struct pollfd * fds, nfds_t count, int timeout), SYS_poll, fds, count, timeout)
CALL(int, ppoll,
     (struct pollfd * fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask),
     SYS_ppoll, fds, count, timeout, mask, 8)
CALL(int, select,
     (int count, fd_set *reading, fd_set *writing, fd_set *exceptional, struct timeval *timeout),
     SYS_select, count, reading, writing, exceptional, timeout)
CALL(int, pselect,
     (int count, fd_set *reading, fd_set *writing, fd_set *exceptional,
      const struct timespec *timeout, const sigset_t *mask),
     SYS_pselect6, count, reading, writing, exceptional, timeout, mask)
CALL(int, close, (int fd), SYS_close, fd)
CALL(int, dup2, (int fd, int number), SYS_dup2, fd, number)
CALL(int, dup3, (int fd, int number, int flags), SYS_dup3, fd, number, flags)
CALL(int, shutdown, (int fd, int how), SYS_shutdown, fd, how)
