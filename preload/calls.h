/*
 * The intercepted calls, all of them: CALL(result, name, parameters). Each has its hook in one of
 * hooks_*.c.
 *
 * listen           a TCP or SCTP server opens: the keeper punches toward its peers
 * bind             a UDP server opens; a TCP server will, and still has the rights that it needs
 * connect          a server that calls a peer from the port that it listens on
 * accept, accept4  a punched connection comes out in place of its bell
 * recvfrom, __recvfrom_chk (its _FORTIFY_SOURCE entry point), recvmsg, recvmmsg
 *                  a UDP socket that came to be without our bind(); which peers are heard
 * recv, __recv_chk, read, __read_chk
 *                  the same, by a server that asks for no peer's address
 * sendto, sendmsg, sendmmsg
 *                  what a UDP server sends renews its hole
 * epoll_ctl, poll, __poll_chk, ppoll, __ppoll_chk, select, pselect
 *                  a listener that came to be without our listen(): a parent's, systemd's, inetd's
 * chroot, setuid, setreuid, setresuid, setrlimit64, prlimit64 (and setrlimit, prlimit)
 *                  what the keeper needs may be out of reach afterwards
 * execve, execv, execvp, execvpe, fexecve, posix_spawn, posix_spawnp
 *                  said where a listener goes to a program that will not have the library
 * fork, daemon     the child is a process of the server's, too
 * close, close_range, closefrom, dup2, dup3, fclose, shutdown
 *                  the server's socket goes, and its holes with it
 * setsockopt       a listener's options are those of its connections; a UDP server's punches are
 *                  to bring it no errors
 * getsockopt       whom a punched connection was meant for, where this host tracks connections
 * __select64, __pselect64, __ppoll64, __ppoll64_chk, __recvmsg64, __recvmmsg64, __sendmsg64,
 * __sendmmsg64, __prctl_time64
 *                  the same, as a 32-bit program with 64-bit time knows them (_TIME_BITS=64)
 * prctl, syscall   what a filter that the process gives itself leaves to us; listen(), accept(),
 *                  accept4() and close() by their number
 */
#define SYNERGY_CALLS(CALL)                                                                        \
    CALL(int, listen, (int fd, int backlog))                                                       \
    CALL(int, bind, (int fd, const struct sockaddr *address, socklen_t length))                    \
    CALL(int, connect, (int fd, const struct sockaddr *address, socklen_t length))                 \
    CALL(int, accept, (int fd, struct sockaddr *address, socklen_t *length))                       \
    CALL(int, accept4, (int fd, struct sockaddr *address, socklen_t *length, int flags))           \
    CALL(ssize_t, recvfrom,                                                                        \
         (int fd, void *buffer, size_t size, int flags, struct sockaddr *address,                  \
          socklen_t *length))                                                                      \
    CALL(ssize_t, __recvfrom_chk,                                                                  \
         (int fd, void *buffer, size_t size, size_t room, int flags, struct sockaddr *address,     \
          socklen_t *length))                                                                      \
    CALL(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags))                            \
    CALL(int, recvmmsg,                                                                            \
         (int fd, struct mmsghdr *messages, unsigned int count, int flags,                         \
          struct timespec *timeout))                                                               \
    CALL(ssize_t, recv, (int fd, void *buffer, size_t size, int flags))                            \
    CALL(ssize_t, __recv_chk, (int fd, void *buffer, size_t size, size_t room, int flags))         \
    CALL(ssize_t, read, (int fd, void *buffer, size_t size))                                       \
    CALL(ssize_t, __read_chk, (int fd, void *buffer, size_t size, size_t room))                    \
    CALL(ssize_t, sendto,                                                                          \
         (int fd, const void *data, size_t size, int flags, const struct sockaddr *address,        \
          socklen_t length))                                                                       \
    CALL(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags))                      \
    CALL(int, sendmmsg, (int fd, struct mmsghdr *messages, unsigned int count, int flags))         \
    CALL(int, epoll_ctl, (int epoll, int operation, int fd, struct epoll_event *event))            \
    CALL(int, poll, (struct pollfd * fds, nfds_t count, int timeout))                              \
    CALL(int, __poll_chk, (struct pollfd * fds, nfds_t count, int timeout, size_t room))           \
    CALL(                                                                                          \
        int, ppoll,                                                                                \
        (struct pollfd * fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)) \
    CALL(int, __ppoll_chk,                                                                         \
         (struct pollfd * fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask, \
          size_t room))                                                                            \
    CALL(int, select,                                                                              \
         (int count, fd_set *reading, fd_set *writing, fd_set *exceptional,                        \
          struct timeval *timeout))                                                                \
    CALL(int, pselect,                                                                             \
         (int count, fd_set *reading, fd_set *writing, fd_set *exceptional,                        \
          const struct timespec *timeout, const sigset_t *mask))                                   \
    CALL(int, chroot, (const char *path))                                                          \
    CALL(int, setuid, (uid_t user))                                                                \
    CALL(int, setreuid, (uid_t real, uid_t effective))                                             \
    CALL(int, setresuid, (uid_t real, uid_t effective, uid_t saved))                               \
    CALL(int, setrlimit64, (__rlimit_resource_t which, const struct rlimit64 *limit))              \
    CALL(int, prlimit64,                                                                           \
         (pid_t process, enum __rlimit_resource which, const struct rlimit64 *limit,               \
          struct rlimit64 *old))                                                                   \
    CALL(int, execve, (const char *path, char *const words[], char *const environment[]))          \
    CALL(int, execv, (const char *path, char *const words[]))                                      \
    CALL(int, execvp, (const char *name, char *const words[]))                                     \
    CALL(int, execvpe, (const char *name, char *const words[], char *const environment[]))         \
    CALL(int, fexecve, (int fd, char *const words[], char *const environment[]))                   \
    CALL(int, posix_spawn,                                                                         \
         (pid_t * child, const char *path, const posix_spawn_file_actions_t *actions,              \
          const posix_spawnattr_t *attributes, char *const words[], char *const environment[]))    \
    CALL(int, posix_spawnp,                                                                        \
         (pid_t * child, const char *name, const posix_spawn_file_actions_t *actions,              \
          const posix_spawnattr_t *attributes, char *const words[], char *const environment[]))    \
    CALL(pid_t, fork, (void))                                                                      \
    CALL(int, daemon, (int keeps_directory, int keeps_output))                                     \
    CALL(int, close, (int fd))                                                                     \
    CALL(int, close_range, (unsigned int first, unsigned int last, int flags))                     \
    CALL(void, closefrom, (int first))                                                             \
    CALL(int, dup2, (int fd, int number))                                                          \
    CALL(int, dup3, (int fd, int number, int flags))                                               \
    CALL(int, fclose, (FILE * stream))                                                             \
    CALL(int, shutdown, (int fd, int how))                                                         \
    CALL(int, setsockopt, (int fd, int level, int name, const void *value, socklen_t length))      \
    CALL(int, getsockopt, (int fd, int level, int name, void *value, socklen_t *length))           \
    CALL(int, prctl, (int option, ...))                                                            \
    CALL(long, syscall, (long number, ...))

/* Where `long` is too short for the time (glibc's bits/timesize.h), the calls that may carry a time
 * have a second name. The times are theirs: we pass them on. */
#if defined __TIMESIZE && __TIMESIZE == 32
#define SYNERGY_TIME64_CALLS(CALL)                                                                 \
    CALL(int, __select64,                                                                          \
         (int count, fd_set *reading, fd_set *writing, fd_set *exceptional, void *timeout))        \
    CALL(int, __pselect64,                                                                         \
         (int count, fd_set *reading, fd_set *writing, fd_set *exceptional, const void *timeout,   \
          const sigset_t *mask))                                                                   \
    CALL(int, __ppoll64,                                                                           \
         (struct pollfd * fds, nfds_t count, const void *timeout, const sigset_t *mask))           \
    CALL(int, __ppoll64_chk,                                                                       \
         (struct pollfd * fds, nfds_t count, const void *timeout, const sigset_t *mask,            \
          size_t room))                                                                            \
    CALL(ssize_t, __recvmsg64, (int fd, struct msghdr *message, int flags))                        \
    CALL(int, __recvmmsg64,                                                                        \
         (int fd, struct mmsghdr *messages, unsigned int count, int flags, void *timeout))         \
    CALL(ssize_t, __sendmsg64, (int fd, const struct msghdr *message, int flags))                  \
    CALL(int, __sendmmsg64, (int fd, struct mmsghdr *messages, unsigned int count, int flags))     \
    CALL(int, __prctl_time64, (int option, ...))
#else
#define SYNERGY_TIME64_CALLS(CALL)
#endif
