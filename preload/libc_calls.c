#include "libc_calls.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <unistd.h>

struct libc_calls libc;

/* What stands for a function that this libc does not have (ssize_t: wide enough for every call). */
static ssize_t missing(void) {
    errno = ENOSYS;
    return -1;
}

static void *next(const char *name) {
    void *function = dlsym(RTLD_NEXT, name);
    return function ? function : (void *)missing;
}

void find_libc_calls(void) {
#define FIND(result, name, parameters) libc.name = (result(*) parameters)next(#name);
    SYNERGY_CALLS(FIND)
    SYNERGY_TIME64_CALLS(FIND)
#undef FIND
}

/* For the processors that most have; others call what the loader finds first. */
static inline long enter(long number, const long words[6]) {
#if defined __x86_64__ && defined __LP64__
    long result;
    register long fourth __asm__("r10") = words[3];
    register long fifth __asm__("r8") = words[4];
    register long sixth __asm__("r9") = words[5];
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(words[0]), "S"(words[1]), "d"(words[2]), "r"(fourth),
                       "r"(fifth), "r"(sixth)
                     : "rcx", "r11", "memory");
#elif defined __aarch64__
    register long which __asm__("x8") = number;
    register long result __asm__("x0") = words[0];
    register long second __asm__("x1") = words[1];
    register long third __asm__("x2") = words[2];
    register long fourth __asm__("x3") = words[3];
    register long fifth __asm__("x4") = words[4];
    register long sixth __asm__("x5") = words[5];
    __asm__ volatile("svc 0"
                     : "+r"(result)
                     : "r"(which), "r"(second), "r"(third), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "memory", "cc");
#else
    return syscall(number, words[0], words[1], words[2], words[3], words[4], words[5]);
#endif
#if (defined __x86_64__ && defined __LP64__) || defined __aarch64__
    enum { LARGEST_ERROR = 4095 };
    if ((unsigned long)result < -(unsigned long)LARGEST_ERROR)
        return result;
    errno = (int)-result;
    return -1;
#endif
}

__attribute__((no_sanitize("address"))) long kernel(long number, ...) {
    WORDS_AFTER(number, words);
    return enter(number, words);
}
