/* Preloaded into linux.uml by scripts/test-uml, so that the second kernel starts on processors with
 * AMX. It keeps its processes' vector registers in 2696 bytes, all that there was with AVX-512, and
 * gives those back alone. Linux takes a register set for the whole XSAVE area or not at all
 * (EFAULT), and with AMX the area is larger, in use or not: the kernel then dies of its first
 * process. What is refused for that is completed here with what the process has beyond those bytes,
 * which is its own. On all other processors nothing is refused, and nothing is done. */
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

static long (*libc_ptrace)(enum __ptrace_request request, ...);

/* Not at the first call: user-mode Linux makes its calls on small stacks of its own. */
__attribute__((constructor)) static void find_libc_ptrace(void) {
    libc_ptrace = dlsym(RTLD_NEXT, "ptrace");
}

/* Static for the same reason; one is enough, as this kernel has one processor. With AMX it takes
 * 11,008 bytes. */
static char whole[64 * 1024];

static long set_whole(pid_t pid, void *kind, const struct iovec *part) {
    struct iovec all = {.iov_base = whole, .iov_len = sizeof whole};
    if (libc_ptrace(PTRACE_GETREGSET, pid, kind, &all) != 0 || part->iov_len >= all.iov_len)
        return -1; /* it was refused for something else */
    memcpy(whole, part->iov_base, part->iov_len);
    return libc_ptrace(PTRACE_SETREGSET, pid, kind, &all);
}

long ptrace(enum __ptrace_request request, ...) {
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    long result = libc_ptrace(request, pid, address, data);
    if (result == -1 && errno == EFAULT && request == PTRACE_SETREGSET &&
        address == (void *)NT_X86_XSTATE)
        return set_whole(pid, address, data);
    return result;
}
