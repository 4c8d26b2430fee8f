#include "libc_calls.h"

#include <dlfcn.h>
#include <errno.h>

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
