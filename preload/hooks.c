#include "hooks.h"

#include "keeper_client.h"
#include "keeper_start.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

static void begin(char **environment) {
    int error = errno;
    find_libc_calls();
    Dl_info place;
    /* Any address within this library tells where it lies. */
    if (dladdr(&concern, &place) != 0 && place.dli_fname)
        library_lies_at(place.dli_fname);
    look_for_settings(environment);
    errno = error;
}

/* Runs before all other constructors (-z initfirst), libc's own included. */
__attribute__((constructor)) static void construct(int count, char **words, char **environment) {
    (void)count, (void)words;
    /* glibc gives a constructor the environment, and may have no `environ` yet; musl has it, and
     * gives nothing. */
    if (concern == NOT_LOOKED)
        begin(environ ? environ : environment);
}

/* Of a server that leaves of its own accord the keepers keep the holes for a moment: in a shell's
 * loop there will be a next one. */
__attribute__((destructor)) static void destruct(void) {
    if (knows_keepers() && may_ask())
        note_leaving();
}

__attribute__((cold)) int begin_early(void) {
    begin(environ);
    return is_concerned();
}

int is_stock_taken;

/* (A child by vfork() takes none, and must leave that to its parent.) */
__attribute__((cold)) void take_stock_once(void) {
    if (may_begin())
        ASIDE(if (!__atomic_exchange_n(&is_stock_taken, 1, __ATOMIC_RELAXED)) take_stock());
}

__attribute__((cold)) void say_left_out(void) {
    ASIDE(say_left_out_port());
}

__attribute__((cold, noinline)) static void meet(int fd, enum encounter encounter) {
    ASIDE(socket_is_met(fd, encounter));
}

__attribute__((cold, noinline)) static void replace(int keeper) {
    ASIDE(replace_keeper(keeper));
}

__attribute__((cold)) uint64_t word_after_all(int fd, enum encounter encounter) {
    struct descriptor descriptor = descriptor_of(fd);
    if (!may_ask())
        return descriptor_word(fd);
    if (descriptor.mark == SYNERGY_UNKNOWN)
        meet(fd, encounter);
    descriptor = descriptor_of(fd);
    if (is_ours(descriptor.mark) && synergy_is_over(keeper_page((int)descriptor.keeper)))
        replace((int)descriptor.keeper);
    return descriptor_word(fd);
}

__attribute__((cold)) int is_blocking(int fd) {
    int flags = 0;
    ASIDE(flags = (int)kernel(SYS_fcntl, fd, F_GETFL));
    return flags >= 0 && !(flags & O_NONBLOCK);
}
