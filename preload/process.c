#include "process.h"

#include "keeper_client.h"
#include "libc_calls.h"

#include <linux/futex.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

/* Zero in every new process: the kernel wipes it at fork (madvise(2), MADV_WIPEONFORK). */
struct own {
    pid_t process;
    uint32_t starting;
};

static struct own *own;

void *process_begin(size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *memory =
        mmap(NULL, page + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    /* Where it is refused, a child whose fork was not seen passes for one by vfork(): nothing of
     * its is kept. */
    (void)madvise(memory, page, MADV_WIPEONFORK);
    struct own *first = (struct own *)memory;
    first->process = getpid();
    own = first;
    return memory + page;
}

int process_is_own(void) {
    pid_t self = getpid(), known = __atomic_load_n(&own->process, __ATOMIC_RELAXED);
    if (known == self)
        return 1;
    if (known != 0)
        return 0;
    if (__atomic_compare_exchange_n(&own->process, &known, self, 0, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED))
        keepers_hear_of(0);
    return 1;
}

void process_has_forked(void) {
    __atomic_store_n(&own->process, getpid(), __ATOMIC_RELAXED);
}

int starting_begin(void) {
    enum { PATIENCE = 2 };
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (;;) {
        uint32_t nobody = 0;
        if (__atomic_compare_exchange_n(&own->starting, &nobody, 1, 0, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED))
            return 1;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - begin.tv_sec > PATIENCE)
            return 0;
        struct timespec wait = {.tv_sec = 1};
        kernel(SYS_futex, &own->starting, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 1, &wait, NULL, 0);
    }
}

void starting_end(void) {
    __atomic_store_n(&own->starting, 0, __ATOMIC_RELEASE);
    kernel(SYS_futex, &own->starting, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT32_MAX, NULL, NULL, 0);
}
