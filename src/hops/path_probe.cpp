#include "hops/path_probe.h"

#include "hops/icmp_error.h"
#include "hops/route.h"

#include <algorithm>
#include <array>
#include <linux/in6.h> // IPV6_PREFER_SRC_PUBLIC
#include <netinet/in.h>
#include <sys/epoll.h>

namespace synergy {

namespace {

using std::chrono::milliseconds;

// Where probes go. By convention nothing listens on traceroute's first port (IANA: traceroute
// 33434). It is one port for all probes, lest they look like a port scan to the firewall on the
// other side. A TCP SYN has to look like what firewalls let out. Where one of these is the port
// that the peer declared, its neighbour in the list is taken: a probe never has it.
constexpr std::array<std::uint16_t, 2> udp_ports = {33434, 33435};
constexpr std::array<std::uint16_t, 2> tcp_ports = {443, 80};

/// So that who captures a probe knows what it is.
constexpr char payload[] = "SocketSynergy path probe";

/// Between two probes: each hop limit meets another router, but those that reach the far end all
/// meet the same. With its answer the rest is not sent.
constexpr Duration spacing = milliseconds(4);

/// How long a round waits for answers: longer where the path is longer, since who has not answered
/// yet may be further away than who has.
constexpr Duration patience_least = milliseconds(200);
constexpr Duration patience_most = milliseconds(550);

/// Rounds: all by UDP; then the silent again, for an error may have been lost or rationed (Linux:
/// one a second to a destination after the first few, icmp(7)), and also by TCP SYN; and once more
/// those in the middle of the path that are still silent.
constexpr int rounds = 3;
/// Beyond the last answer, so many are asked again: the nearest are the likeliest to be there.
constexpr int asked_beyond = 3;
/// With fewer answers than that, or when the second round saw further, a firewall of this side may
/// have kept UDP in, and all that is silent is asked again.
constexpr int enough_answers = 2;

std::uint16_t other_than(std::uint16_t declared, const std::array<std::uint16_t, 2> &ports) {
    return ports[0] != declared ? ports[0] : ports[1];
}

} // namespace

PathProbe::PathProbe(Scheduler &scheduler, const Endpoint &peer, const Endpoint &source, Done done,
                     PerHop per_hop, int only)
    : scheduler_(scheduler),
      source_(source.is_wildcard() ? Endpoint() : source.unmapped().with_port(0)),
      udp_port_(other_than(peer.port(), udp_ports)), tcp_port_(other_than(peer.port(), tcp_ports)),
      done_(std::move(done)), per_hop_(std::move(per_hop)), only_(only), timer_(scheduler) {
    path_.peer = peer.unmapped().with_port(0);
    path_.source = source_;
    if (const auto route = route_to(path_.peer, source_)) {
        path_.on_link = route->on_link;
        path_.is_local = route->is_local;
        if (path_.source.empty()) // the kernel's choice, known before anything answers
            path_.source = route->source;
    }
    for (int limit = 1; limit <= (path_.on_link ? 1 : std::max(hops_max, only)); limit++)
        path_.hops.emplace_back().limit = limit;
    timer_.set(Clock::now(), [this] { begin_round(); });
}

PathProbe::~PathProbe() {
    for (const Probe &probe : probes_)
        scheduler_.unwatch(probe.socket.fd());
}

void PathProbe::begin_round() {
    round_++;
    const int last = path_.last_answer();
    const bool sees_further = last > last_before_;
    last_before_ = last;
    if (round_ > rounds)
        return finish();
    // Where next to nothing was heard in the first round, what answers the others may be kept out.
    if (last < enough_answers && round_ > 1 && !kept_out_)
        kept_out_.emplace(path_.peer.family());
    int beyond = round_ == rounds ? 0 : asked_beyond;
    if (round_ == rounds ? sees_further : last < enough_answers)
        beyond = hops_max;
    for (const int limit : unanswered(beyond)) {
        to_send_.emplace_back(limit, Transport::udp);
        if (round_ > 1)
            to_send_.emplace_back(limit, Transport::tcp);
    }
    if (to_send_.empty())
        return finish();
    next();
}

/// The silent hop limits below the path's end, or up to `beyond` more than the last answer.
std::vector<int> PathProbe::unanswered(int beyond) const {
    const int most = std::min(end_limit() - 1, path_.last_answer() + beyond);
    std::vector<int> limits;
    for (const Hop &hop : path_.hops)
        if (hop.answer == HopAnswer::none && (only_ != 0 ? hop.limit == only_ : hop.limit <= most))
            limits.push_back(hop.limit);
    return limits;
}

void PathProbe::next() {
    while (!to_send_.empty() && to_send_.front().first >= end_limit())
        to_send_.pop_front();
    if (to_send_.empty()) {
        timer_.set(Clock::now() + patience(), [this] { begin_round(); });
        return;
    }
    const auto [limit, by] = to_send_.front();
    to_send_.pop_front();
    send(limit, by);
    if (path_.error != 0)
        return finish();
    timer_.set(Clock::now() + spacing, [this] { next(); });
}

void PathProbe::send(int limit, Transport by) {
    const Probes::iterator probe =
        probes_.insert(probes_.end(), {.limit = limit, .by = by, .sent = {}, .socket = {}});
    const int error = emit(*probe);
    // Without a way to the peer or the address to send from, the other probes would fare no better.
    // Anything else may be of this moment or this transport, and leaves the hop silent.
    // (EADDRNOTAVAIL is also what TCP has for EAGAIN of UDP's.)
    if (error == ENETUNREACH || error == EHOSTUNREACH || error == EAFNOSUPPORT || error == EINVAL ||
        error == EACCES || (error == EADDRNOTAVAIL && by == Transport::udp))
        path_.error = error;
    path_.is_without_port |= error == EAGAIN;
    path_.is_without_descriptor |= error == EMFILE || error == ENFILE;
    path_.is_kept_in |= error == EPERM;
    // (One that was sent on loopback may be answered by now.)
    const std::uint32_t events = EPOLLERR | (by == Transport::tcp ? EPOLLOUT : EPOLLIN);
    if (error != 0 || !scheduler_.watch(probe->socket.fd(), events,
                                        [this, probe](auto happened) { hear(probe, happened); }))
        probes_.erase(probe);
}

/// Makes the probe's socket and sends it; 0 or an errno.
int PathProbe::emit(Probe &probe) const {
    const int family = path_.peer.family();
    const bool is_tcp = probe.by == Transport::tcp;
    Socket &socket = probe.socket;
    socket = Socket::open(family, is_tcp ? SOCK_STREAM : SOCK_DGRAM);
    if (!socket)
        return errno;
    const bool is_set =
        family == AF_INET6
            ? socket.set(IPPROTO_IPV6, IPV6_RECVERR, 1) &&
                  socket.set(IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1) &&
                  socket.set(IPPROTO_IPV6, IPV6_UNICAST_HOPS, probe.limit) &&
                  socket.set(IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, IPV6_PREFER_SRC_PUBLIC)
            : socket.set(IPPROTO_IP, IP_RECVERR, 1) && socket.set(IPPROTO_IP, IP_TTL, probe.limit);
    if (!is_set)
        return errno;
    if (!source_.empty() && ::bind(socket.fd(), source_.data(), source_.length()) != 0)
        return errno;
    probe.sent = Clock::now();
    const Endpoint to = path_.peer.with_port(is_tcp ? tcp_port_ : udp_port_);
    if (::connect(socket.fd(), to.data(), to.length()) != 0)
        // An error that comes while connect() still runs is its result, and also on the queue.
        return is_tcp && (errno == EINPROGRESS || errno == EHOSTUNREACH || errno == ECONNREFUSED)
                   ? 0
                   : errno;
    if (is_tcp)
        return 0;
    iovec part{const_cast<char *>(payload), sizeof payload - 1};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    return ::sendmsg(socket.fd(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? errno : 0;
}

void PathProbe::hear(Probes::iterator probe, std::uint32_t events) {
    HopAnswer answer = HopAnswer::none;
    Endpoint from = path_.peer;
    int hop_limit = 0;
    bool is_over = true;
    if (const std::optional<IcmpError> icmp = read_icmp_error(probe->socket)) {
        answer = icmp->answer;
        from = icmp->from.empty() ? from : icmp->from;
        hop_limit = icmp->hop_limit;
    } else {
        // Nothing on the queue: it is the other end itself that spoke.
        const int error = probe->socket.get(SOL_SOCKET, SO_ERROR, 0);
        if (error == ECONNREFUSED)
            answer = HopAnswer::refused;
        else if (error == 0 && (events & (EPOLLIN | EPOLLOUT)) != 0)
            answer = HopAnswer::accepted;
        else if (error == 0)
            is_over = false;
    }
    if (answer != HopAnswer::none)
        record(*probe, answer, from, hop_limit);
    if (!is_over)
        return;
    // A connection that came about is broken off: nothing of it is to linger here.
    if (answer == HopAnswer::accepted && probe->by == Transport::tcp)
        probe->socket.reset_when_closed();
    scheduler_.unwatch(probe->socket.fd());
    probes_.erase(probe);
    if (is_complete())
        timer_.set(Clock::now(), [this] { finish(); });
}

void PathProbe::record(const Probe &probe, HopAnswer answer, const Endpoint &from, int hop_limit) {
    const Endpoint source = probe.socket.local().with_port(0);
    // This host has given its neighbour up: that says nothing of the path.
    if (answer == HopAnswer::unreachable && from.same_address(source))
        return;
    if (path_.source.empty())
        path_.source = source;
    Hop &hop = path_.hops[static_cast<std::size_t>(probe.limit) - 1];
    if (hop.answer != HopAnswer::none)
        return;
    hop.answer = answer;
    hop.from = from.with_port(0);
    hop.by = probe.by;
    hop.answer_hop_limit = hop_limit;
    hop.round_trip =
        std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - probe.sent);
    if (per_hop_)
        per_hop_(hop);
}

/// The lowest hop limit that met the end; one more than there are while that is not known.
int PathProbe::end_limit() const {
    const Hop *end = path_.end();
    return end != nullptr ? end->limit : static_cast<int>(path_.hops.size()) + 1;
}

bool PathProbe::is_complete() const {
    return (only_ != 0 || path_.end() != nullptr) && unanswered(hops_max).empty();
}

Duration PathProbe::patience() const {
    Duration longest{};
    for (const Hop &hop : path_.hops)
        longest = std::max<Duration>(longest, hop.round_trip);
    // Where nothing has answered, nothing is known of the distance.
    if (path_.last_answer() == 0)
        return patience_most;
    return std::clamp(2 * longest + milliseconds(150), patience_least, patience_most);
}

void PathProbe::finish() {
    for (const Probe &probe : probes_)
        scheduler_.unwatch(probe.socket.fd());
    probes_.clear();
    if (kept_out_) {
        path_.kept_out = kept_out_->by_firewall();
        path_.from_elsewhere = kept_out_->from_elsewhere();
    }
    if (path_.on_link && path_.last_answer() == 0)
        if (const auto route = route_to(path_.peer, source_))
            path_.is_mute = is_neighbour_mute(path_.peer, route->interface);
    const Hop *end = path_.end();
    path_.hops.resize(static_cast<std::size_t>(end != nullptr ? end->limit : path_.last_answer()));
    // Nothing of this object is touched after the call.
    const Done done = std::move(done_);
    const Path path = std::move(path_);
    done(path);
}

} // namespace synergy
