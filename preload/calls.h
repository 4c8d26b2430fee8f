/*
 * The intercepted calls, all of them: CALL(result, name, parameters). Each has its hook in
 * preload.c and its line in libsynergy.map.
 *
 * listen           a TCP server opens: punch toward its peers
 * bind             a UDP server opens: punch from its own socket
 * accept, accept4  a punched connection comes out in place of its doorbell
 * recvfrom, __recvfrom_chk (its _FORTIFY_SOURCE entry point), recvmsg, recvmmsg
 *                  a UDP socket that came to be without our bind(); which peers are heard
 * close, close_range, closefrom, dup2, dup3
 *                  the server's socket goes, and its holes with it
 */
#define SYNERGY_CALLS(CALL)                                                                        \
    CALL(int, listen, (int fd, int backlog))                                                       \
    CALL(int, bind, (int fd, const struct sockaddr *address, socklen_t length))                    \
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
    CALL(int, close, (int fd))                                                                     \
    CALL(int, close_range, (unsigned int first, unsigned int last, int flags))                     \
    CALL(void, closefrom, (int first))                                                             \
    CALL(int, dup2, (int fd, int number))                                                          \
    CALL(int, dup3, (int fd, int number, int flags))
