#include "punch/udp_punch.h"

#include "base/last_descriptors.h"
#include "base/log.h"
#include "hops/addresses.h"
#include "hops/icmp_error.h"
#include "hops/route.h"
#include "punch/beside.h"
#include "punch/failure.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <linux/filter.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>
#include <utility>

namespace synergy {

namespace {

/// That the server has for an error of its own, before a punch takes it.
constexpr Duration time_for_error = std::chrono::seconds(1);

/// Ancillary data of one datagram (cmsg(3)).
class Ancillary {
  public:
    template <typename T> void add(int level, int type, const T &value) {
        msghdr space{};
        space.msg_control = bytes_.data() + used_;
        space.msg_controllen = bytes_.size() - used_;
        cmsghdr *entry = CMSG_FIRSTHDR(&space);
        entry->cmsg_level = level;
        entry->cmsg_type = type;
        entry->cmsg_len = CMSG_LEN(sizeof value);
        std::memcpy(CMSG_DATA(entry), &value, sizeof value);
        used_ += CMSG_SPACE(sizeof value);
    }
    void attach(msghdr &message) {
        message.msg_control = bytes_.data();
        message.msg_controllen = used_;
    }

  private:
    alignas(cmsghdr) std::array<char, 128> bytes_{};
    std::size_t used_ = 0;
};

/// A socket at the server's port; empty and errno set if there can be none.
Socket bound_beside(const ServerSocket &server, const Endpoint &local) {
    Socket beside = Socket::open(local.family(), SOCK_DGRAM);
    if (!beside || !beside.set(SOL_SOCKET, SO_REUSEPORT, 1))
        return {};
    // It must be as dual-stack as an AF_INET6 server's to share its port.
    if (local.family() == AF_INET6)
        beside.set(IPPROTO_IPV6, IPV6_V6ONLY, local.is_v4_mapped() || server.takes_v4 ? 0 : 1);
    if (::bind(beside.fd(), local.data(), local.length()) != 0)
        return {};
    return beside;
}

/// In a group all datagrams are for the first of its sockets, which is the server's. Told once, the
/// kernel keeps to it as long as that lives (socket(7), SO_ATTACH_REUSEPORT_CBPF).
bool give_group_to_first(const Socket &beside) {
    sock_filter always_first = BPF_STMT(BPF_RET | BPF_K, 0);
    const sock_fprog program{.len = 1, .filter = &always_first};
    return ::setsockopt(beside.fd(), SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program,
                        sizeof program) == 0;
}

/// The number of the last processor that this host has in use.
int last_processor() {
    // "0-3,8-11\n"
    std::ifstream file("/sys/devices/system/cpu/online");
    int last = -1;
    for (char separator = ','; separator != '\n' && file >> last;)
        if (!file.get(separator))
            break;
    return last >= 0 ? last : static_cast<int>(sysconf(_SC_NPROCESSORS_CONF)) - 1;
}

} // namespace

void ErrorsAside::open(const ServerSocket &server) {
    const int last = last_processor();
    for (int processor = 0; processor <= last; processor++) {
        Socket socket = bound_beside(server, server.local);
        // One that is preferred comes after the program that says whose the datagrams are.
        if (!socket || is_one_of_the_last(socket, spared_by_punches) ||
            (processor == 0 && !give_group_to_first(socket)))
            break;
        socket.set(SOL_SOCKET, SO_INCOMING_CPU, processor);
        socket.set(IPPROTO_IP, IP_RECVERR, 1);
        if (server.local.family() == AF_INET6)
            socket.set(IPPROTO_IPV6, IPV6_RECVERR, 1);
        sockets_.push_back(std::move(socket));
    }
    for (const Socket &socket : sockets_)
        scheduler_.watch(socket.fd(), 0, [this, &socket](std::uint32_t) { error_came(socket); });
}

int ErrorsAside::socket_for(const ServerSocket &server, Duration longest) {
    if (sockets_.empty())
        open(server);
    if (sockets_.empty())
        return -1;
    awaited_++;
    ends_at_ = std::max(ends_at_, Clock::now() + longest);
    end_.set(ends_at_, [this] { end(); });
    return sockets_.front().fd();
}

/// Those that have their errors are not in the way of the server's.
void ErrorsAside::error_came(const Socket &socket) {
    static_cast<void>(socket.get(SOL_SOCKET, SO_ERROR, 0));
    while (read_icmp_error(socket))
        if (awaited_ > 0 && --awaited_ == 0)
            end_.set(Clock::now(), [this] { end(); }); // not here, in one's own handler
}

void ErrorsAside::group_anew(const ServerSocket &server) {
    if (sockets_.empty())
        return;
    close();
    open(server);
}

void ErrorsAside::close() {
    for (const Socket &socket : sockets_)
        scheduler_.unwatch(socket.fd());
    sockets_.clear();
}

void ErrorsAside::end() {
    end_.cancel();
    close();
    awaited_ = 0;
}

UdpPunch::UdpPunch(const PunchContext &context, Hole hole, int fd, ErrorsAside &aside)
    : Punch(context, std::move(hole)), fd_(fd), aside_(aside), timer_(context.scheduler) {}

/// 0, or an errno.
int UdpPunch::send() {
    // (From a socket that is bound to it, IPv6's leave all the same.)
    if (const Endpoint &local = hole_.server.local; !local.is_wildcard() && !is_own_address(local))
        return EADDRNOTAVAIL;
    if (fd_ >= 0)
        return send_from(fd_, hole_.peer);
    if (hole_.server.asks_for_errors)
        if (const int fd = aside_.socket_for(hole_.server, error_time()); fd >= 0)
            return send_from(fd, hole_.peer);
    // Beside an AF_INET socket an AF_INET6 one on the v4-mapped address: for IPv4 the kernel
    // prefers the former, and the two make no group, which a socket that is closed leaves before it
    // is out of reach (measured in a flood of 200,000 a second: none lost in 4,000 punches, against
    // 12 to 148 with an AF_INET socket).
    Socket beside = bound_beside(hole_.server, hole_.server.local.mapped());
    Endpoint peer = hole_.peer.mapped();
    // There may be no IPv6 here (ipv6.disable=1), or not for this server (RestrictAddressFamilies=
    // of a systemd unit).
    if (!beside && errno == EAFNOSUPPORT && hole_.server.local.family() == AF_INET) {
        beside = bound_beside(hole_.server, hole_.server.local);
        peer = hole_.peer;
    }
    if (!beside)
        return errno;
    if (!is_group_told_)
        is_group_told_ = give_group_to_first(beside);
    return send_from(beside.fd(), peer);
}

/// Whether an error waits for the server at its socket (of a client that has gone, while that was
/// connected): sendmsg() from a duplicate would be told it in the server's place. Who wants to know
/// has asked within a second; for others it waits for ever, and is in nobody's way after that.
bool UdpPunch::would_take_error() {
    pollfd waiting{.fd = fd_, .events = 0, .revents = 0};
    const bool is_there =
        fd_ >= 0 && ::poll(&waiting, 1, 0) == 1 && (waiting.revents & POLLERR) != 0;
    return is_there && !std::exchange(has_left_error_, true);
}

/// How long the punch's error may take to come back.
Duration UdpPunch::error_time() const {
    using std::chrono::milliseconds;
    constexpr Duration unknown = milliseconds(300), margin = milliseconds(100);
    const auto hop = context_.owner.find_dying_hop(hole_, hop_limit());
    return hop ? hop->round_trip * 5 / 4 + margin : unknown;
}

int UdpPunch::send_from(int fd, const Endpoint &peer) const {
    bool is_v4 = hole_.is_v4();
    Ancillary ancillary;
    if (is_v4)
        ancillary.add(IPPROTO_IP, IP_TTL, hop_limit());
    else
        ancillary.add(IPPROTO_IPV6, IPV6_HOPLIMIT, hop_limit());
    if (hole_.server.local.is_wildcard()) {
        Endpoint source = context_.settings.local_for(is_v4 ? AF_INET : AF_INET6);
        if (source.empty() && !is_v4)
            source = public_source(hole_.peer);
        // One of the link's own would need its interface.
        if (source.is_link_local() && !hole_.peer.is_link_local())
            source = {};
        if (!source.empty() && is_v4) {
            in_pktinfo info{};
            info.ipi_spec_dst = reinterpret_cast<const sockaddr_in *>(source.data())->sin_addr;
            ancillary.add(IPPROTO_IP, IP_PKTINFO, info);
        } else if (!source.empty()) {
            in6_pktinfo info{};
            info.ipi6_addr = reinterpret_cast<const sockaddr_in6 *>(source.data())->sin6_addr;
            ancillary.add(IPPROTO_IPV6, IPV6_PKTINFO, info);
        }
    }
    msghdr message{};
    message.msg_name = const_cast<sockaddr *>(peer.data());
    message.msg_namelen = peer.length();
    ancillary.attach(message);
    return ::sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == 0 ? 0 : errno;
}

/// Where punches leave from.
Endpoint UdpPunch::source() const {
    const Endpoint chosen = hole_.source(context_.settings);
    return chosen.empty() || chosen.is_wildcard() ? public_source(hole_.peer) : chosen;
}

void UdpPunch::renew() {
    auto last = [this](synergy_way way) {
        return context_.traffic.last(way, hole_.server.cookie, hole_.peer);
    };
    if (!is_heard_ && last(SYNERGY_RECEIVED)) {
        is_heard_ = true;
        log::info("{}: the peer is heard", hole_.text());
        proved();
    }
    // RFC 4787 REQ-6: what goes out "MUST" refresh a hole; whether what comes in does is the
    // firewall's choice.
    auto sent = last(SYNERGY_SENT);
    if (sent && *sent + context_.settings.refresh > Clock::now())
        timer_.set(*sent + context_.settings.refresh, [this] { renew(); });
    else
        punch();
}

int UdpPunch::punch() {
    if (!context_.owner.check_alive(hole_.server))
        return EBADF;
    if (would_take_error()) {
        timer_.set(Clock::now() + time_for_error, [this] { punch(); });
        return 0;
    }
    has_left_error_ = false;
    Duration next = context_.settings.refresh;
    // Asked before the next one has it looked for again.
    const std::string mute =
        record().first_punched == Time{} ? "" : mute_gateway_cause(hole_.server.local, hole_.peer);
    next_hop_limit();
    context_.traffic.punched(); // before its error is there
    int error = send();
    // It may have met one that was waiting for the server's socket, and is gone by that.
    if (error != 0)
        error = send();
    if (error == 0) {
        failures_ = 0;
        const bool can_be_answered = punched(source());
        if (!mute.empty())
            failed_by(mute, EHOSTUNREACH);
        else if (can_be_answered)
            recovered();
    } else {
        failed_here(error);
        next = retry_delay(++failures_ + 1, next);
    }
    timer_.set(Clock::now() + next, [this] { renew(); });
    return error;
}

} // namespace synergy
