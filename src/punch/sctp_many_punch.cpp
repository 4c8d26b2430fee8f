#include "punch/sctp_many_punch.h"

#include "base/log.h"
#include "punch/beside.h"
#include "punch/failure.h"
#include "punch/sctp_error.h"
#include "punch/sctp_hole.h"
#include "server/sctp_socket.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace synergy {

using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

/// Within the 3 s for which a tracker may keep a half-open association
/// (nf_conntrack_sctp_timeout_cookie_wait; it keeps this one 10 s, from its INIT on).
constexpr Duration period = seconds(2);

/// The kernel would repeat the INIT after this time, with the ordinary hop limit; and before that
/// it must be taken back, with margin, even where the peer is being answered.
constexpr std::uint32_t repetition_ms = 6000;
constexpr Duration longest_answer = seconds(5);

/// How often to see whether the peer has come, and whether it has gone.
constexpr Duration glance = milliseconds(100);
constexpr Duration rest = seconds(1);

/// An option of the server's socket that has another value for the length of a block. The socket
/// serves other peers too, from other threads: what they do meanwhile meets the same value.
class Borrowed {
  public:
    template <typename T>
    Borrowed(int fd, int level, int option, const T &before, const T &value)
        : fd_(fd), level_(level), option_(option), length_(sizeof(T)) {
        static_assert(sizeof(T) <= sizeof before_);
        std::memcpy(before_.data(), &before, sizeof(T));
        is_set_ = ::setsockopt(fd, level, option, &value, sizeof(T)) == 0;
    }
    Borrowed(const Borrowed &) = delete;
    Borrowed &operator=(const Borrowed &) = delete;
    ~Borrowed() {
        int saved = errno;
        ::setsockopt(fd_, level_, option_, before_.data(), length_);
        errno = saved;
    }
    explicit operator bool() const { return is_set_; }

  private:
    int fd_, level_, option_;
    socklen_t length_;
    std::array<char, 16> before_{};
    bool is_set_ = false;
};

/// The hop limit that the server chose, or default_hop_limit if it is that of every new socket.
int chosen_hop_limit(int fd, bool is_v4, int level, int option) {
    int value = get_option(fd, level, option);
    Socket fresh = Socket::open(is_v4 ? AF_INET : AF_INET6, SOCK_DGRAM, IPPROTO_UDP);
    return fresh.get(level, option, value) == value ? default_hop_limit : value;
}

} // namespace

SctpManyPunch::SctpManyPunch(const PunchContext &context, Hole hole, int fd)
    : Punch(context, std::move(hole)), fd_(fd), is_v4_(hole_.is_v4()),
      begin_(context.owner.begin_of(hole_, sctp::hole_lifetime)), timer_(context.scheduler) {}

SctpManyPunch::~SctpManyPunch() {
    if (sctp::state_of(fd_, association_) == SCTP_COOKIE_WAIT)
        take_back();
}

int SctpManyPunch::open() {
    return association_ != 0 ? 0 : punch();
}

bool SctpManyPunch::is_in_use() const {
    return association_ != 0 && sctp::state_of(fd_, association_) >= SCTP_ESTABLISHED;
}

/// Begins the association, and leaves the server's socket as it was. What its other associations
/// send within these few microseconds may be lost on the way, and is sent again as always.
int SctpManyPunch::begin(bool is_answer) {
    // Where there is no way, SCTP begins all the same, and sends nothing.
    if (const int error = route_error(hole_.server.local, hole_.peer, Transport::sctp); error != 0)
        return error;
    sctp_rtoinfo timeouts{};
    if (!sctp::get(fd_, SCTP_RTOINFO, timeouts))
        return errno;
    sctp_rtoinfo longer = timeouts;
    longer.srto_initial = repetition_ms;
    longer.srto_max = std::max(longer.srto_max, repetition_ms);
    Borrowed late_repetition(fd_, IPPROTO_SCTP, SCTP_RTOINFO, timeouts, longer);

    // connect() must not wait, and O_NONBLOCK would end calls of the server's that wait for a peer.
    // A negative SO_SNDTIMEO is no time at all to the kernel (sock_set_timeout(), which logs the
    // first ten since it booted), and is felt only by who sends into a full buffer at this moment.
    timeval timeout{};
    socklen_t length = sizeof timeout;
    getsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &timeout, &length);
    constexpr timeval none{.tv_sec = -1, .tv_usec = 0};
    Borrowed no_waiting(fd_, SOL_SOCKET, SO_SNDTIMEO, timeout, none);
    if (!late_repetition || !no_waiting)
        return errno;

    int level = is_v4_ ? IPPROTO_IP : IPPROTO_IPV6;
    int option = is_v4_ ? IP_TTL : IPV6_UNICAST_HOPS;
    int chosen = chosen_hop_limit(fd_, is_v4_, level, option);
    if (!is_answer)
        next_hop_limit();
    Borrowed its_own(fd_, level, option, chosen, is_answer ? chosen : hop_limit());
    if (!its_own)
        return errno;
    // connect() by another name, which tells the association's number.
    sctp_getaddrs_old whom{};
    whom.addr_num = static_cast<int>(hole_.peer.length());
    whom.addrs = const_cast<sockaddr *>(hole_.peer.data());
    if (!sctp::get(fd_, SCTP_SOCKOPT_CONNECTX3, whom) && errno != EINPROGRESS)
        return sctp::connect_error(errno);
    association_ = whom.assoc_id;
    return 0;
}

/// SHUTDOWN in COOKIE_WAIT (RFC 9260 9.2) only forgets the association.
void SctpManyPunch::take_back() {
    sctp_sndrcvinfo information{};
    information.sinfo_flags = SCTP_EOF;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof information)> control{};
    msghdr message{};
    message.msg_name = const_cast<sockaddr *>(hole_.peer.data());
    message.msg_namelen = hole_.peer.length();
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr *entry = CMSG_FIRSTHDR(&message);
    entry->cmsg_level = IPPROTO_SCTP;
    entry->cmsg_type = SCTP_SNDRCV;
    entry->cmsg_len = CMSG_LEN(sizeof information);
    std::memcpy(CMSG_DATA(entry), &information, sizeof information);
    ::sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    association_ = 0;
}

/// A peer's INIT. All that shows is that a control chunk has come.
bool SctpManyPunch::has_answered() const {
    sctp_assoc_stats statistics{};
    statistics.sas_assoc_id = association_;
    return sctp::get(fd_, SCTP_GET_ASSOC_STATS, statistics) && statistics.sas_ictrlchunks > 0;
}

/// Whether a firewall of this host's own refuses the INIT: that has said so by now. (The socket is
/// that of all peers, and what a router says may be of another one's INIT, that left before.)
bool SctpManyPunch::is_refused_here() {
    const int error = get_option(fd_, SOL_SOCKET, SO_ERROR);
    if (error == 0)
        return false;
    if (sctp::is_by_this_host(error, hole_, {}, std::nullopt, context_.scheduler.lateness()))
        return true;
    answered();
    return false;
}

int SctpManyPunch::punch() {
    association_ = 0;
    if (!context_.owner.check_alive(hole_.server))
        return EBADF;
    begun_ = Clock::now();
    static_cast<void>(get_option(fd_, SOL_SOCKET, SO_ERROR)); // of something earlier
    int error = begin(false);
    if (error == 0 && is_refused_here()) {
        take_back();
        error = EPERM;
    }
    // A peer that has called meanwhile has got an answer that dies on its way, unless it has come
    // in. Its own firewall is open for an INIT of ours, which is no punch any more, and is
    // answered.
    const bool is_answer = error == 0 && Clock::now() >= begun_ + sctp::unusual && has_answered() &&
                           sctp::state_of(fd_, association_) == SCTP_COOKIE_WAIT;
    if (is_answer) {
        take_back();
        error = begin(true);
    }
    if (error == EISCONN || error == EALREADY) {
        // The server, or the peer, has been faster, or the server has peeled it off.
        timer_.set(Clock::now() + rest, [this] { punch(); });
        return 0;
    }
    if (error != 0) {
        failed_here(error);
        timer_.set(Clock::now() + retry_delay(++failures_ + 1, context_.settings.refresh),
                   [this] { punch(); });
        return error;
    }
    failures_ = 0;
    if (punched(hole_.server.local))
        recovered();
    begin_->leaves(begun_);
    next_ = is_answer ? begun_ + period : sctp::next_init(begun_, *begin_, period);
    await_peer_from(begun_);
    return 0;
}

void SctpManyPunch::await_peer_from(Time now) {
    const Time look = now + glance;
    timer_.set(now < next_ ? std::min(look, next_) : look, [this] { await_peer(); });
}

void SctpManyPunch::await_peer() {
    Time now = Clock::now();
    int state = sctp::state_of(fd_, association_);
    if (state >= SCTP_ESTABLISHED) {
        log::info("{}: connected", hole_.text());
        proved();
        sctp::keep_alive(fd_, association_);
        await_end();
        return;
    }
    if (state == SCTP_COOKIE_ECHOED) { // the peer has answered, and will again
        await_peer_from(now);
        return;
    }
    if (state == SCTP_COOKIE_WAIT) {
        // Between our answer to the peer's INIT and its next chunk it must not be taken back: the
        // peer would be shut out for long.
        if (has_answered() ? now < begun_ + longest_answer : now < next_) {
            await_peer_from(now);
            return;
        }
        if (!context_.owner.check_alive(hole_.server))
            return;
        // The server itself calls this peer: it is the server's association from now on, and its
        // INIT goes all the way.
        auto own = associations_.find(hole_.server.local, hole_.peer);
        if (own && own->queued > 0) {
            timer_.set(now + rest, [this] { await_peer(); });
            return;
        }
        if (get_option(fd_, SOL_SOCKET, SO_ERROR) != 0) // the punch's, and not the server's
            answered();
        take_back();
    }
    punch();
}

void SctpManyPunch::await_end() {
    if (sctp::state_of(fd_, association_) == SCTP_EMPTY)
        punch();
    else if (context_.owner.check_alive(hole_.server))
        timer_.set(Clock::now() + rest, [this] { await_end(); });
}

} // namespace synergy
