/* A system call filter of the allowing kind, which most programs have. */
#pragma once

#include "program.h"

#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The file names what is allowed, a call in a line: "socket:1" and the like with that first
 * argument only, "socket!40" with any other, "clone&0x7e020000" where none of these bits is in it.
 * "clone3=38" is answered with that errno. Anything else has `otherwise` for an answer, also in the
 * other threads. */
static inline scmp_filter_ctx filter_that_allows(const char *path, uint32_t otherwise) {
    scmp_filter_ctx filter = seccomp_init(otherwise);
    FILE *names = fopen(path, "re");
    char line[64];
    NEED(filter && names);
    NEED(seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1) == 0);
    while (fscanf(names, "%63s", line) == 1) {
        char *argument = strpbrk(line, ":!&="), how = argument ? *argument : 0;
        scmp_datum_t value = argument ? strtoull(argument + 1, NULL, 0) : 0;
        if (argument)
            *argument = 0;
        int number = seccomp_syscall_resolve_name(line);
        if (number < 0)
            continue; /* another architecture's, or another release's */
        if (how == ':')
            NEED(seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 1, SCMP_A0(SCMP_CMP_EQ, value)) ==
                 0);
        else if (how == '!')
            NEED(seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 1, SCMP_A0(SCMP_CMP_NE, value)) ==
                 0);
        else if (how == '&')
            NEED(seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 1,
                                  SCMP_A0(SCMP_CMP_MASKED_EQ, value, 0)) == 0);
        else if (how == '=')
            NEED(seccomp_rule_add(filter, SCMP_ACT_ERRNO((uint32_t)value), number, 0) == 0);
        else
            NEED(seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0) == 0);
    }
    fclose(names);
    return filter;
}

static inline void allow_only(const char *path, uint32_t otherwise) {
    scmp_filter_ctx filter = filter_that_allows(path, otherwise);
    NEED(seccomp_load(filter) == 0);
    seccomp_release(filter);
}

/* The same by a call that no preloaded library sees, as an instruction of the program's own is. */
static inline void allow_only_unseen(const char *path, uint32_t otherwise) {
    static struct sock_filter rules[4096];
    scmp_filter_ctx filter = filter_that_allows(path, otherwise);
    void *libc = dlopen("libc.so.6", RTLD_LAZY);
    long (*call)(long, ...) = libc ? (long (*)(long, ...))dlsym(libc, "syscall") : NULL;
    int file = memfd_create("filter", MFD_CLOEXEC);
    NEED(call && seccomp_export_bpf(filter, file) == 0);
    ssize_t size = pread(file, rules, sizeof rules, 0);
    struct sock_fprog program = {(unsigned short)(size / (ssize_t)sizeof *rules), rules};
    NEED(size > 0 && size < (ssize_t)sizeof rules);
    close(file);
    seccomp_release(filter);
    NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    NEED(call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0);
}
