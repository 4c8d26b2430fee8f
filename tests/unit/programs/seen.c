/* Stands in front of a program, and of any other preloaded library, and writes down what the
 * program sees of its connections: a line for each call, without addresses of memory, into the file
 * that SEEN names. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What another library does within a call of the program's is not the program's. */
static _Thread_local int is_within;

static int open_log(void) {
    static int fd = -1;
    const char *path = getenv("SEEN");
    if (fd < 0 && path)
        fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC,
                          0666);
    return fd;
}

static void say(const char *call, int fd, const char *arguments, int result, const void *value,
                socklen_t length) {
    int error = errno;
    if (is_within)
        return;
    char line[1024];
    int end = snprintf(line, sizeof line, "%s %d %s= %s%s ", call, fd, arguments,
                       result < 0 ? "error " : "", result < 0 ? strerrorname_np(error) : "ok");
    for (socklen_t i = 0; result >= 0 && value && i < length && end < (int)sizeof line - 4; i++)
        end += snprintf(line + end, 3, "%02x", ((const unsigned char *)value)[i]);
    line[end++] = '\n';
    if (write(open_log(), line, (size_t)end) < 0)
        abort();
    errno = error;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int accept4(int listener, struct sockaddr *address, socklen_t *length, int flags) {
    is_within++;
    int result = NEXT(accept4)(listener, address, length, flags);
    is_within--;
    char arguments[32];
    snprintf(arguments, sizeof arguments, "flags %x ", (unsigned)flags);
    if (result >= 0 || errno != EAGAIN)
        say("accept4", result, arguments, result, address, length ? *length : 0);
    return result;
}

int accept(int listener, struct sockaddr *address, socklen_t *length) {
    is_within++;
    int result = NEXT(accept)(listener, address, length);
    is_within--;
    if (result >= 0 || errno != EAGAIN)
        say("accept", result, "", result, address, length ? *length : 0);
    return result;
}

int getsockname(int fd, struct sockaddr *address, socklen_t *length) {
    is_within++;
    int result = NEXT(getsockname)(fd, address, length);
    is_within--;
    say("getsockname", fd, "", result, address, length ? *length : 0);
    return result;
}

int getpeername(int fd, struct sockaddr *address, socklen_t *length) {
    is_within++;
    int result = NEXT(getpeername)(fd, address, length);
    is_within--;
    say("getpeername", fd, "", result, address, length ? *length : 0);
    return result;
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *length) {
    is_within++;
    int result = NEXT(getsockopt)(fd, level, name, value, length);
    is_within--;
    char arguments[64];
    snprintf(arguments, sizeof arguments, "level %d name %d ", level, name);
    say("getsockopt", fd, arguments, result, value, length ? *length : 0);
    return result;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length) {
    is_within++;
    int result = NEXT(setsockopt)(fd, level, name, value, length);
    is_within--;
    char arguments[64];
    snprintf(arguments, sizeof arguments, "level %d name %d ", level, name);
    say("setsockopt", fd, arguments, result, value, length);
    return result;
}
