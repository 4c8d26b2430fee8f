#include "hops/icmp_error.h"

#include <array>
#include <cstdio>
#include <cstring>
#include <linux/errqueue.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <netinet/in.h>
#include <sys/utsname.h>

namespace synergy {

namespace {

HopAnswer answer_of(const sock_extended_err &error) {
    if (error.ee_origin == SO_EE_ORIGIN_ICMP6) { // RFC 4443 3.1, 3.3
        if (error.ee_type == ICMPV6_TIME_EXCEED)
            return HopAnswer::time_exceeded;
        if (error.ee_type != ICMPV6_DEST_UNREACH)
            return HopAnswer::none;
        switch (error.ee_code) {
        case ICMPV6_PORT_UNREACH:
            return HopAnswer::refused;
        case ICMPV6_ADM_PROHIBITED:
        case ICMPV6_POLICY_FAIL:
        case ICMPV6_REJECT_ROUTE:
            return HopAnswer::prohibited;
        default:
            return HopAnswer::unreachable;
        }
    }
    if (error.ee_origin == SO_EE_ORIGIN_ICMP) { // RFC 792, RFC 1812 5.2.7.1
        if (error.ee_type == ICMP_TIME_EXCEEDED)
            return HopAnswer::time_exceeded;
        if (error.ee_type != ICMP_DEST_UNREACH)
            return HopAnswer::none;
        switch (error.ee_code) {
        case ICMP_PORT_UNREACH:
        case ICMP_PROT_UNREACH:
            return HopAnswer::refused;
        case ICMP_NET_ANO:
        case ICMP_HOST_ANO:
        case ICMP_PKT_FILTERED:
            return HopAnswer::prohibited;
        default:
            return HopAnswer::unreachable;
        }
    }
    return HopAnswer::none;
}

} // namespace

std::optional<IcmpError> read_icmp_error(const Socket &socket) {
    alignas(cmsghdr) std::array<char, 512> control{};
    msghdr message{};
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    if (::recvmsg(socket.fd(), &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
        return std::nullopt;
    IcmpError found;
    for (cmsghdr *each = CMSG_FIRSTHDR(&message); each != nullptr;
         each = CMSG_NXTHDR(&message, each)) {
        if (each->cmsg_level == IPPROTO_IPV6 && each->cmsg_type == IPV6_HOPLIMIT)
            std::memcpy(&found.hop_limit, CMSG_DATA(each), sizeof found.hop_limit);
        const bool is_v6 = each->cmsg_level == IPPROTO_IPV6 && each->cmsg_type == IPV6_RECVERR;
        const bool is_v4 = each->cmsg_level == IPPROTO_IP && each->cmsg_type == IP_RECVERR;
        const std::size_t length = each->cmsg_len - CMSG_LEN(0);
        if ((!is_v6 && !is_v4) || length < sizeof(sock_extended_err))
            continue;
        sock_extended_err error{};
        std::memcpy(&error, CMSG_DATA(each), sizeof error);
        found.answer = answer_of(error);
        found.from =
            Endpoint::from(reinterpret_cast<const sockaddr *>(CMSG_DATA(each) + sizeof error),
                           static_cast<socklen_t>(length - sizeof error));
    }
    return found;
}

bool are_senders_kept(bool is_v4) {
    static const bool are_those_of_v6 = [] { // since Linux 5.16
        utsname name{};
        int major = 0, minor = 0;
        return ::uname(&name) == 0 && std::sscanf(name.release, "%d.%d", &major, &minor) == 2 &&
               (major > 5 || (major == 5 && minor >= 16));
    }();
    return is_v4 || are_those_of_v6;
}

} // namespace synergy
