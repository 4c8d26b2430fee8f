/* Sets a child's registers as user-mode Linux does on a processor with AMX: with the beginning of
 * the XSAVE area, and not the whole. Here it is the 576 bytes that end before the upper halves of
 * the AVX registers, so that any processor with AVX has more. Says whether the kernel took it, and
 * what the child then has in both halves of a register. */
#include "program.h"

#include <elf.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

enum {
    BEGINNING = 576,     /* FXSAVE area and XSAVE header (Intel SDM volume 1, 13.4) */
    XMM8 = 160 + 8 * 16, /* in the FXSAVE area */
};

static int child(void) {
    unsigned char was[32], is[32];
    memset(was, 'c', sizeof was);
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    __asm__ volatile("vmovups %1, %%ymm8\n\t"
                     "int3\n\t"
                     "vmovups %%ymm8, %0"
                     : "=m"(is)
                     : "m"(was)
                     : "xmm8");
    printf("lower %c, upper %c\n", is[0], is[31]);
    fflush(stdout);
    return 0;
}

int main(void) {
    alarm(60);
    pid_t pid = fork();
    if (pid == 0)
        _exit(child());
    int status;
    NEED(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);

    static unsigned char area[64 * 1024];
    struct iovec part = {.iov_base = area, .iov_len = sizeof area};
    NEED(ptrace(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &part) == 0);
    NEED(part.iov_len > BEGINNING && area[XMM8] == 'c');
    memset(area + XMM8, 'p', 16);
    part.iov_len = BEGINNING;
    long set = ptrace(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &part);
    printf("set %s\n", set == 0 ? "taken" : strerrorname_np(errno));
    fflush(stdout);

    NEED(ptrace(PTRACE_CONT, pid, NULL, NULL) == 0);
    NEED(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return 0;
}
