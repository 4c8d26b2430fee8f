#include "punch/syn_error.h"

#include "hops/addresses.h"
#include "punch/failure.h"
#include "punch/syn_socket.h"

#include <cerrno>
#include <utility>

#include <linux/tcp.h>

namespace synergy {

namespace {

/// What an error says by itself, where the kernel does not keep who sent it (before Linux 5.16) or
/// nobody did: a reset has no other sender than the peer's address.
IcmpError icmp_error_of(int error) {
    // RFC 4443 3.1, "communication with destination administratively prohibited", is EACCES.
    const HopAnswer answer = error == ECONNREFUSED ? HopAnswer::refused
                             : error == EACCES     ? HopAnswer::prohibited
                                                   : HopAnswer::none;
    return {.answer = answer, .from = {}};
}

} // namespace

IcmpError take_error_of_syn(const Socket &socket, int error) {
    IcmpError answer = icmp_error_of(error);
    while (const std::optional<IcmpError> icmp = read_icmp_error(socket))
        answer = *icmp;
    return answer;
}

bool is_of_routing_table(const IcmpError &answer, bool is_v4) {
    return answer.answer == HopAnswer::prohibited && answer.from.empty() && are_senders_kept(is_v4);
}

bool is_by_this_host(const IcmpError &answer, const Hole &hole, Duration lateness) {
    const Endpoint &local = hole.server.local;
    if (answer.answer == HopAnswer::unreachable)
        return answer.from.empty() ? !mute_gateway_cause(local, hole.peer).empty()
                                   : is_own_address(answer.from);
    if (is_of_routing_table(answer, hole.is_v4()))
        return true;
    if (answer.answer == HopAnswer::prohibited && answer.from.empty())
        return route_error(local, hole.peer, Transport::tcp) != 0;
    if (is_own_address(hole.peer))
        return false; // it is the peer who refuses
    return answer.from.empty() ? is_refused_by_this_host(local, hole.peer, Transport::tcp, lateness)
                               : is_own_address(answer.from);
}

void SynDepartures::begin(unsigned tried) {
    looked_at_ = unsent_ = 0;
    tried_ = tried;
}

bool SynDepartures::knows_all(const tcp_info &info) const {
    return info.tcpi_total_retrans == tried_;
}

/// What leaves from an address that is none of this host's any more, or counts on the link alone,
/// nobody can answer, and to the kernel it may have left (IPv6). 0, or an errno.
int SynDepartures::source_error(const Socket &socket, const Hole &hole, const Settings &settings) {
    const Endpoint own = socket.local();
    if (is_own_address(own) && link_objection(own, hole.peer).empty())
        return 0;
    if (would_leave_from_elsewhere(socket, hole, settings))
        return 0; // and does so the next time
    const int error = route_error(hole.server.local, hole.peer, Transport::tcp);
    return error != 0 ? error : EADDRNOTAVAIL;
}

std::optional<SynDepartures::Finding> SynDepartures::look(const Socket &socket,
                                                          const tcp_info &info, const Hole &hole,
                                                          const Settings &settings) {
    constexpr unsigned surely = 2; // one may meet a queue that is full, or the end of an outage
    if (info.tcpi_retransmits == looked_at_)
        return std::nullopt;
    looked_at_ = info.tcpi_retransmits;
    const bool was_tried = std::exchange(tried_, info.tcpi_total_retrans) != tried_;
    const unsigned before = std::exchange(unsent_, 0);
    const Endpoint &local = hole.server.local;
    // (The kernel has it that these leave.)
    std::string cause = no_carrier_cause(local, hole.peer);
    if (cause.empty()) {
        if (const int error = source_error(socket, hole, settings); error != 0)
            return Finding{.error = error};
        if (synergy::has_left(info))
            return Finding{.has_left = true};
        if (const int error = route_error(local, hole.peer, Transport::tcp); error != 0)
            return Finding{.error = error};
        cause = silent_cause(local, hole.peer, settings, was_tried);
    }
    // What does not leave for one cause is no sign of another one.
    const unsigned unsent = cause.empty() ? 0 : cause == unsent_for_ ? before + 1 : 1;
    unsent_for_ = std::move(cause);
    if (unsent >= surely)
        return Finding{.cause = unsent_for_};
    unsent_ = unsent;
    return Finding{};
}

} // namespace synergy
