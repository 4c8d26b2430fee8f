#include "filters.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

int is_beginning_forbidden, is_asking_forbidden, is_telling_forbidden, is_probing_forbidden,
    is_looking_forbidden, is_handling_forbidden, is_hanging_up_forbidden;

#if defined __x86_64__ && !defined __ILP32__
#define NATIVE AUDIT_ARCH_X86_64
#elif defined __i386__
#define NATIVE AUDIT_ARCH_I386
#elif defined __aarch64__
#define NATIVE AUDIT_ARCH_AARCH64
#elif defined __arm__
#define NATIVE AUDIT_ARCH_ARM
#elif defined __riscv && __riscv_xlen == 64
#define NATIVE AUDIT_ARCH_RISCV64
#elif defined __powerpc64__ && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NATIVE AUDIT_ARCH_PPC64LE
#elif defined __s390x__
#define NATIVE AUDIT_ARCH_S390X
#else
#define NATIVE 0 /* no filter lets that pass */
#endif

enum { SOME_FD = 5, MASK_SIZE = 8 };

struct attempt {
    long number;
    uint64_t arguments[6];
};

static const struct attempt probing[] = {
    {SYS_rt_sigprocmask, {SIG_SETMASK, 1, 1, MASK_SIZE, 0, 0}},
    {SYS_rt_sigprocmask, {(uint64_t)-1, 1, 0, MASK_SIZE, 0, 0}},
};

/* What tells how signals are handled (hooks_accept.c). */
static const struct attempt handling[] = {
    {SYS_rt_sigaction, {SIGTERM, 0, 1, MASK_SIZE, 0, 0}},
};

/* What tells that a connection is a bell, and says on it that it is not answered (doorbell.c). */
static const struct attempt telling[] = {
    {SYS_getsockname, {SOME_FD, 1, 1, 0, 0, 0}},
    {SYS_getpeername, {SOME_FD, 1, 1, 0, 0, 0}},
    {SYS_ppoll, {1, 1, 1, 0, 0, 0}},
    {SYS_recvfrom, {SOME_FD, 1, 1, MSG_PEEK | MSG_DONTWAIT, 0, 0}},
    {SYS_sendto, {SOME_FD, 1, 1, MSG_NOSIGNAL | MSG_DONTWAIT, 0, 0}},
    {SYS_close, {SOME_FD, 0, 0, 0, 0, 0}},
};

/* What tells whose the other end of a connection is (other_end.c). */
static const struct attempt looking[] = {
    {SYS_socket, {AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG, 0, 0, 0}},
    {SYS_sendto, {SOME_FD, 1, 1, MSG_NOSIGNAL, 1, 1}},
    {SYS_recvfrom, {SOME_FD, 1, 1, MSG_DONTWAIT, 0, 0}},
};

/* What lets nothing more come from a keeper that is late (keeper_client.c). */
static const struct attempt hanging_up[] = {
    {SYS_shutdown, {SOME_FD, SHUT_RDWR, 0, 0, 0, 0}},
};

/* What is called within ASIDE(), by aside_begin() itself first of all. Where there is a socket call
 * of an older kind (socketcall(2)), that one is not ours. */
static const struct attempt asking[] = {
    {SYS_rt_sigprocmask, {SIG_SETMASK, 1, 1, MASK_SIZE, 0, 0}},
    {SYS_rt_sigpending, {1, MASK_SIZE, 0, 0, 0, 0}},
    {SYS_rt_sigtimedwait, {1, 0, 1, MASK_SIZE, 0, 0}},
    {SYS_getpid, {0}},
    {SYS_geteuid, {0}},
#ifdef SYS_newfstatat
    {SYS_newfstatat, {SOME_FD, 1, 1, 0x1000 /* AT_EMPTY_PATH */, 0, 0}},
#endif
    {SYS_setsockopt, {SOME_FD, SOL_SOCKET, SO_SNDTIMEO, 1, 2 * sizeof(long), 0}},
    {SYS_setsockopt, {SOME_FD, SOL_SOCKET, SO_RCVTIMEO, 1, 2 * sizeof(long), 0}},
    {SYS_setsockopt, {SOME_FD, SOL_SOCKET, SO_REUSEPORT, 1, sizeof(int), 0}},
    {SYS_setsockopt, {SOME_FD, SOL_SOCKET, SO_REUSEADDR, 1, sizeof(int), 0}},
    {SYS_getsockopt, {SOME_FD, SOL_SOCKET, SO_PROTOCOL, 1, 1, 0}},
    {SYS_getsockopt, {SOME_FD, SOL_SOCKET, SO_TYPE, 1, 1, 0}},
    {SYS_getsockopt, {SOME_FD, SOL_SOCKET, SO_DOMAIN, 1, 1, 0}},
    {SYS_getsockopt, {SOME_FD, SOL_SOCKET, SO_ACCEPTCONN, 1, 1, 0}},
    {SYS_getsockopt, {SOME_FD, SOL_SOCKET, SO_COOKIE, 1, 1, 0}},
    {SYS_getsockopt, {SOME_FD, SOL_SOCKET, SO_REUSEPORT, 1, 1, 0}},
    {SYS_getsockopt, {SOME_FD, SOL_SOCKET, SO_REUSEADDR, 1, 1, 0}},
    {SYS_getsockopt, {SOME_FD, SOL_SOCKET, 71 /* SO_NETNS_COOKIE */, 1, 1, 0}},
    {SYS_bind, {SOME_FD, 1, 1, 0, 0, 0}},
    {SYS_getsockname, {SOME_FD, 1, 1, 0, 0, 0}},
    {SYS_getpeername, {SOME_FD, 1, 1, 0, 0, 0}},
    {SYS_recvmsg, {SOME_FD, 1, MSG_CMSG_CLOEXEC | MSG_PEEK, 0, 0, 0}},
    {SYS_close, {SOME_FD, 0, 0, 0, 0, 0}},
    {SYS_fcntl, {SOME_FD, F_GETFL, 0, 0, 0, 0}},
    {SYS_fcntl, {SOME_FD, F_GETFD, 0, 0, 0, 0}},
    {SYS_fcntl, {SOME_FD, F_DUPFD_CLOEXEC, 0, 0, 0, 0}},
    {SYS_fcntl, {SOME_FD, F_SETFD, FD_CLOEXEC, 0, 0, 0}},
    {SYS_fcntl, {SOME_FD, F_GET_SEALS, 0, 0, 0, 0}},
    {SYS_mmap, {0, 1, 3 /* PROT_READ | PROT_WRITE */, 1 /* MAP_SHARED */, SOME_FD, 0}},
    {SYS_munmap, {1, 1, 0, 0, 0, 0}},
    {SYS_write, {2, 1, 1, 0, 0, 0}},
    {SYS_nanosleep, {1, 0, 0, 0, 0, 0}},
    {SYS_futex, {1, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 1, 1, 0, 0}},
    {SYS_futex, {1, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT32_MAX, 0, 0, 0}},
    {SYS_ppoll, {1, 1, 1, 0, 0, 0}},
};

/* Of these, what no connection comes out of accept() without: they are to be there, too. */
static const struct attempt fetching[] = {
    {SYS_socket, {AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, 0, 0, 0}},
    {SYS_getsockopt, {SOME_FD, SOL_SOCKET, SO_PEERCRED, 1, 1, 0}},
    {SYS_connect, {SOME_FD, 1, 1, 0, 0, 0}},
    {SYS_sendmsg, {SOME_FD, 1, MSG_NOSIGNAL, 0, 0, 0}},
    {SYS_recvmsg, {SOME_FD, 1, MSG_CMSG_CLOEXEC, 0, 0, 0}},
    {SYS_dup3, {SOME_FD, SOME_FD + 1, O_CLOEXEC, 0, 0, 0}},
};

/* What is done once: the keeper's start (keeper_start.c), and a look at what the process has. */
static const struct attempt beginning[] = {
    {SYS_socketpair, {AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, 1, 0, 0}},
    {SYS_clone, {CLONE_VM | CLONE_VFORK, 1, 0, 0, 0, 0}},
    {SYS_clone, {CLONE_VM | CLONE_VFORK | CLONE_FILES, 1, 0, 0, 0, 0}},
    {SYS_wait4, {1, 0, __WCLONE, 0, 0, 0}},
    {SYS_exit_group, {0}},
    {SYS_openat, {(uint64_t)AT_FDCWD, 1, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, 0, 0}},
    {SYS_getdents64, {SOME_FD, 1, 1, 0, 0, 0}},
    {SYS_getresuid, {1, 1, 1, 0, 0, 0}},
    {SYS_getuid, {0}},
    {SYS_getgid, {0}},
    {SYS_getegid, {0}},
};

/* The machine that a filter is written for (linux/filter.h), as far as seccomp(2) takes it. Its
 * jumps go forward only, and the kernel has looked at it before: it ends. */
struct machine {
    uint32_t a, x, memory[BPF_MEMWORDS];
};

static uint32_t computed(uint16_t operation, uint32_t a, uint32_t operand) {
    switch (operation) {
    case BPF_ADD:
        return a + operand;
    case BPF_SUB:
        return a - operand;
    case BPF_MUL:
        return a * operand;
    case BPF_DIV:
        return operand ? a / operand : 0;
    case BPF_MOD:
        return operand ? a % operand : 0;
    case BPF_AND:
        return a & operand;
    case BPF_OR:
        return a | operand;
    case BPF_XOR:
        return a ^ operand;
    case BPF_LSH:
        return operand < 32 ? a << operand : 0;
    case BPF_RSH:
        return operand < 32 ? a >> operand : 0;
    default: /* BPF_NEG */
        return -a;
    }
}

static int is_met(uint16_t condition, uint32_t a, uint32_t operand) {
    switch (condition) {
    case BPF_JEQ:
        return a == operand;
    case BPF_JGT:
        return a > operand;
    case BPF_JGE:
        return a >= operand;
    case BPF_JSET:
        return (a & operand) != 0;
    default: /* BPF_JA */
        return 1;
    }
}

static uint32_t loaded(const struct machine *machine, const struct sock_filter *each,
                       const struct seccomp_data *data) {
    uint32_t word = 0;
    switch (BPF_MODE(each->code)) {
    case BPF_IMM:
        return each->k;
    case BPF_MEM:
        return each->k < BPF_MEMWORDS ? machine->memory[each->k] : 0;
    case BPF_LEN:
        return sizeof *data;
    default: /* BPF_ABS */
        if (each->k <= sizeof *data - sizeof word)
            __builtin_memcpy(&word, (const char *)data + each->k, sizeof word);
        return word;
    }
}

/* What the filter says of a call. */
static uint32_t verdict(const struct sock_fprog *program, const struct seccomp_data *data) {
    struct machine machine = {0};
    for (unsigned at = 0; at < program->len; at++) {
        const struct sock_filter *each = &program->filter[at];
        uint32_t operand = BPF_SRC(each->code) == BPF_X ? machine.x : each->k;
        switch (BPF_CLASS(each->code)) {
        case BPF_LD:
            machine.a = loaded(&machine, each, data);
            break;
        case BPF_LDX:
            machine.x = loaded(&machine, each, data);
            break;
        case BPF_ST:
            machine.memory[each->k % BPF_MEMWORDS] = machine.a;
            break;
        case BPF_STX:
            machine.memory[each->k % BPF_MEMWORDS] = machine.x;
            break;
        case BPF_ALU:
            machine.a = computed(BPF_OP(each->code), machine.a, operand);
            break;
        case BPF_JMP:
            if (BPF_OP(each->code) == BPF_JA)
                at += each->k;
            else
                at += is_met(BPF_OP(each->code), machine.a, operand) ? each->jt : each->jf;
            break;
        case BPF_RET:
            return BPF_RVAL(each->code) == BPF_A ? machine.a : each->k;
        default: /* BPF_MISC */
            if (BPF_MISCOP(each->code) == BPF_TAX)
                machine.x = machine.a;
            else
                machine.a = machine.x;
        }
    }
    return SECCOMP_RET_KILL_PROCESS;
}

/* `refusal`: whether that is good enough, since the process goes on. */
static int lets_pass(const struct sock_fprog *program, const struct attempt *attempts, size_t count,
                     uint32_t refusal) {
    for (size_t i = 0; i < count; i++) {
        struct seccomp_data data = {
            .nr = (int)attempts[i].number, .arch = NATIVE, .instruction_pointer = 1};
        __builtin_memcpy(data.args, attempts[i].arguments, sizeof data.args);
        uint32_t action = verdict(program, &data) & SECCOMP_RET_ACTION_FULL;
        if (action != SECCOMP_RET_ALLOW && action != SECCOMP_RET_LOG && action != refusal)
            return 0;
    }
    return 1;
}

#define FORBID_UNLESS(list, refusal, is_forbidden)                                                 \
    if (!program || !lets_pass(program, list, sizeof list / sizeof *list, refusal))                \
    __atomic_store_n(&is_forbidden, 1, __ATOMIC_RELAXED)

void filter_is_set(const void *program) {
    FORBID_UNLESS(probing, SECCOMP_RET_ERRNO, is_probing_forbidden);
    FORBID_UNLESS(handling, SECCOMP_RET_ERRNO, is_handling_forbidden);
    FORBID_UNLESS(hanging_up, SECCOMP_RET_ALLOW, is_hanging_up_forbidden);
    FORBID_UNLESS(asking, SECCOMP_RET_ERRNO, is_asking_forbidden);
    FORBID_UNLESS(fetching, SECCOMP_RET_ALLOW, is_asking_forbidden);
    FORBID_UNLESS(telling, SECCOMP_RET_ERRNO, is_telling_forbidden);
    FORBID_UNLESS(looking, SECCOMP_RET_ERRNO, is_looking_forbidden);
    FORBID_UNLESS(beginning, SECCOMP_RET_ERRNO, is_beginning_forbidden);
}
