#include "passing_on.h"

#include "aside.h"
#include "filters.h"
#include "keeper_client.h"
#include "libc_calls.h"
#include "open_descriptors.h"
#include "settings_look.h"
#include "socket_look.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void be_ready_for(int fd) {
    struct stat status;
    struct identity identity;
    if (mark_of(fd) != SYNERGY_UNKNOWN || fstat(fd, &status) != 0 || !S_ISSOCK(status.st_mode) ||
        transport_of(fd) == NEITHER || port_of(fd) != 0)
        return;
    int domain = option_of(fd, SO_DOMAIN);
    if ((domain == AF_INET || domain == AF_INET6) && identify(fd, &identity))
        obtain_keeper(&identity, RIGHTS_GO, -1, 0);
}

void be_ready_for_another_user(void) {
    for_each_descriptor(be_ready_for);
}

/* Whether the descriptor is still what was noted of it. */
static int is_as_noted(int fd, struct descriptor descriptor) {
    struct identity identity;
    return identify(fd, &identity) && identity.cookie == descriptor.cookie;
}

static void executed_without_library(int keeper, uint64_t cookie, int flags) {
    struct synergy_request request = {
        .kind = SYNERGY_EXECUTED_WITHOUT, .cookie = cookie, .flags = flags};
    if (keeper != NO_KEEPER && !synergy_is_over(keeper_page(keeper)))
        ask_keeper(keeper, &request, -1, NULL);
}

static int is_text(const char *at) {
    while (readable_bytes(at, 1) == 1) {
        size_t in_page = LEAST_PAGE - (uintptr_t)at % LEAST_PAGE;
        if (memchr(at, 0, in_page))
            return 1;
        at += in_page;
    }
    return 0;
}

/* Whether it can be read to its end. What can't be the kernel refuses to execute anything with. */
static int is_environment(char *const environment[]) {
    while (readable_bytes(environment, sizeof *environment) == sizeof *environment)
        if (!*environment)
            return 1;
        else if (!is_text(*environment++))
            return 0;
    return 0;
}

void program_is_executed(char *const environment[]) {
    /* (The loader trusts nothing in it then.) */
    if (may_begin() && (getuid() != geteuid() || getgid() != getegid())) {
        struct identity own = {.owner = geteuid()};
        executed_without_library(obtain_keeper(&own, RIGHTS_GO, -1, 0), 0, 0);
        return;
    }
    if (!is_environment(environment) || is_library_in(environment))
        return;
    for (int fd = 0, last = __atomic_load_n(&last_descriptor, __ATOMIC_RELAXED); fd <= last; fd++) {
        struct descriptor descriptor = descriptor_of(fd);
        if (!is_ours(descriptor.mark) || !is_as_noted(fd, descriptor))
            continue;
        int goes = (int)kernel(SYS_fcntl, fd, F_GETFD) & FD_CLOEXEC;
        executed_without_library((int)descriptor.keeper, descriptor.cookie,
                                 goes ? SYNERGY_ENDS : 0);
    }
}
