#include "open_descriptors.h"

#include "descriptors.h"
#include "libc_calls.h"

#include <fcntl.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As getdents64(2) has it. */
struct entry {
    uint64_t inode;
    int64_t offset;
    unsigned short size;
    unsigned char type;
    char name[];
};

static int number_of(const char *name) {
    int number = -1;
    for (; *name >= '0' && *name <= '9'; name++)
        number = (number < 0 ? 0 : number) * 10 + (*name - '0');
    return number;
}

void for_each_descriptor(void (*visit)(int)) {
    enum { FEW = 1024 };
    /* (Not `self`: its first thread may have ended.) */
    int directory = (int)kernel(SYS_openat, AT_FDCWD, "/proc/thread-self/fd",
                                O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
        for (int fd = 0; fd < FEW; fd++)
            visit(fd);
        return;
    }
    _Alignas(struct entry) char entries[1024];
    long size;
    while ((size = kernel(SYS_getdents64, directory, entries, sizeof entries)) > 0)
        for (long at = 0; at < size;) {
            const struct entry *entry = (const struct entry *)(entries + at);
            int fd = number_of(entry->name);
            if (fd >= 0 && fd != directory)
                visit(fd);
            at += entry->size;
        }
    kernel(SYS_close, directory);
    forget_descriptor(directory);
}
