/* synergy() and synergy_to(), the calls that a program makes knowingly. */
#include "include/sys/socketsynergy.h"
#include "loader.h"
#include "marks.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>

int synergy_to(int sockfd, const struct sockaddr *peer, socklen_t len, int hoplimit) {
    const struct synergy_engine *engine = synergy_engine_need();
    int error = ELIBACC;
    if (engine) {
        int saved_errno = errno, saved_cancel;
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &saved_cancel);
        error = engine->open_toward(sockfd, peer, len, hoplimit);
        pthread_setcancelstate(saved_cancel, NULL);
        errno = saved_errno;
        /* Also after a failure: the punch may be tried again for as long as the socket is open. */
        set_mark(sockfd, SYNERGY_WATCHED);
    }
    if (error == 0)
        return 0;
    errno = error;
    return -1;
}

int synergy(int sockfd, uint8_t hoplimit, struct sockaddr_in6 *symcli) {
    return synergy_to(sockfd, (const struct sockaddr *)symcli, symcli ? sizeof *symcli : 0,
                      hoplimit);
}
