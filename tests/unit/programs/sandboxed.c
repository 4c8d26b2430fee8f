/* Runs a program under a system call filter, as units and containers do.
 * sandboxed kill|errno FILE PROGRAM [ARGUMENT]... (the file: see only.h) */
#include "only.h"

int main(int count, char **words) {
    NEED(count >= 4);
    allow_only(words[2],
               strcmp(words[1], "kill") == 0 ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(EPERM));
    execv(words[3], words + 3);
    return 1;
}
