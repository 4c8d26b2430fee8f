#include "other_end.h"

#include "filters.h"
#include "libc_calls.h"
#include "wire.h"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/syscall.h>

static void put(const union synergy_endpoint *end, __be32 *address, __be16 *port) {
    if (end->any.sa_family == AF_INET6)
        memcpy(address, &end->v6.sin6_addr, sizeof end->v6.sin6_addr);
    else
        memcpy(address, &end->v4.sin_addr, sizeof end->v4.sin_addr);
    *port = end->v4.sin_port; /* in both families at the same place */
}

static int is_answered(int netlink, const union synergy_endpoint *from,
                       const union synergy_endpoint *to, uid_t *user) {
    struct {
        struct nlmsghdr header;
        struct inet_diag_req_v2 request;
    } question = {.header = {.nlmsg_len = sizeof question,
                             .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                             .nlmsg_flags = NLM_F_REQUEST},
                  .request = {.sdiag_family = (__u8)from->any.sa_family,
                              .sdiag_protocol = IPPROTO_TCP,
                              .id.idiag_cookie = {INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE}}};
    struct {
        struct nlmsghdr header;
        struct inet_diag_msg found;
        char rest[256];
    } answer = {0};
    struct sockaddr_nl kernels_end = {.nl_family = AF_NETLINK};
    put(from, question.request.id.idiag_src, &question.request.id.idiag_sport);
    put(to, question.request.id.idiag_dst, &question.request.id.idiag_dport);
    /* The answer is there when the question has been sent. */
    if (kernel(SYS_sendto, netlink, &question, sizeof question, MSG_NOSIGNAL, &kernels_end,
               sizeof kernels_end) != (long)sizeof question)
        return 0;
    long size = kernel(SYS_recvfrom, netlink, &answer, sizeof answer, MSG_DONTWAIT, NULL, NULL);
    /* (Where there is no such connection the kernel looks for a listener. The rest of one that is
     * closed is nobody's.) */
    if (size < (long)offsetof(__typeof(answer), rest) ||
        answer.header.nlmsg_type != SOCK_DIAG_BY_FAMILY || answer.found.idiag_state == TCP_LISTEN ||
        answer.found.idiag_state == TCP_TIME_WAIT || answer.found.idiag_inode == 0)
        return 0;
    *user = answer.found.idiag_uid;
    return 1;
}

int user_at_other_end(int fd, uid_t *user) {
    union synergy_endpoint from = {0}, to = {0};
    socklen_t length = sizeof from;
    if (!may_look() || getpeername(fd, &from.any, &length) != 0)
        return 0;
    length = sizeof to;
    if (getsockname(fd, &to.any, &length) != 0)
        return 0;
    int netlink = (int)kernel(SYS_socket, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (netlink < 0)
        return 0;
    int is_told = is_answered(netlink, &from, &to, user);
    kernel(SYS_close, netlink);
    return is_told;
}
