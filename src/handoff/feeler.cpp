#include "handoff/feeler.h"

#include "hops/addresses.h"
#include "punch/beside.h"
#include "server/inherited_options.h"

#include <fstream>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <poll.h>
#include <utility>

namespace synergy {

namespace {

/// The most that a hop limit can be: a socket with this for its least (IPV6_MINHOPCOUNT, IP_MINTTL)
/// hears nobody who sends with less, and counts whom it has not heard.
constexpr int deaf = 255;

/// A firewall may be loaded anew, and an interface come up.
constexpr Duration before_next_try = std::chrono::seconds(3);

/// Whether the kernel's answers for the listener start with less.
bool starts_lower(const ServerSocket &listener, const Endpoint &to, const Socket &fresh) {
    const bool is_v4 = to.family() == AF_INET;
    const int level = is_v4 ? IPPROTO_IP : IPPROTO_IPV6;
    const int option = is_v4 ? IP_TTL : IPV6_UNICAST_HOPS;
    const int chosen = ordinary_hop_limit(listener, is_v4);
    return (chosen > 0 ? chosen : fresh.get(level, option, deaf)) < deaf;
}

/// Whether the kernel answers without keeping half a connection (tcp_syncookies=2), as far as can
/// be told.
bool may_keep_nothing() {
    int cookies = 2;
    std::ifstream("/proc/sys/net/ipv4/tcp_syncookies") >> cookies;
    return cookies == 2;
}

} // namespace

Feeler::Knock &Feeler::knock_for(const ServerSocket &listener) {
    auto &knock = knocks_[listener.cookie];
    if (!knock)
        knock = std::make_unique<Knock>(scheduler_, listener);
    return *knock;
}

void Feeler::feel(const ServerSocket &listener) {
    if (!knocks_.contains(listener.cookie) && !begin(knock_for(listener)))
        knocks_.erase(listener.cookie);
}

void Feeler::feel_again(const ServerSocket &listener) {
    Knock &knock = knock_for(listener);
    // (Where SCTP gets through to others at once, it is a matter of the server's port.)
    if (listener.transport != Transport::sctp || !begin(knock))
        begin_later(knock);
}

void Feeler::begin_later(Knock &knock) {
    knock.timer.set(Clock::now() + before_next_try, [this, &knock] {
        if (!begin(knock))
            begin_later(knock);
    });
}

bool Feeler::begin(Knock &knock) {
    const ServerSocket &listener = knock.listener;
    const Endpoint to = bell_address(listener).unmapped();
    if (!listener.accepts() || !listener.listens || !is_own_address(to))
        return false;
    if (listener.transport == Transport::sctp)
        return begin_at_own(knock, to);
    if (!starts_lower(listener, to, Socket::open(to.family(), SOCK_STREAM)) || !knock_at(knock, to))
        return false;
    knock.without_room = Clock::now();
    look_whether_answered(knock);
    return true;
}

bool Feeler::knock_at(Knock &knock, const Endpoint &to) {
    knock.socket = way_.bell_for(knock.listener, to).socket;
    if (!knock.socket)
        return false;
    set_least_hop_limit_heard(knock.socket, to.family() == AF_INET, deaf);
    if (::connect(knock.socket.fd(), to.data(), to.length()) == 0 || errno == EINPROGRESS)
        return true;
    knock.socket.reset();
    return false;
}

void Feeler::look_whether_answered(Knock &knock) {
    const Endpoint to = bell_address(knock.listener).unmapped();
    const Time now = Clock::now();
    const auto end = socket_diag_.who_hears(knock.socket.local(), to, interface_of(to));
    const bool is_answered = meminfo_of(knock.socket.fd(), SK_MEMINFO_DROPS) > 0;
    // Half a connection is kept where the listener has answered, and nothing where a firewall's
    // reset did.
    const bool is_refused = is_answered && end && end->listens && !may_keep_nothing();
    if (is_answered && !is_refused) {
        if (end && !end->listens)
            take_back(knock, to);
        knock.socket.reset();
        felt_(knock.listener, nullptr);
        return;
    }
    if (!end || !end->listens || end->is_half_full())
        knock.without_room = now;
    if (now - knock.without_room >= BellWay::silence_time) {
        knock.socket.reset();
        begin_later(knock);
        felt_(knock.listener, filtered);
        return;
    }
    if (is_refused && !knock_at(knock, to)) {
        begin_later(knock);
        return;
    }
    knock.timer.set(now + BellWay::between_looks, [this, &knock] { look_whether_answered(knock); });
}

/// The kernel keeps half a connection for a second, and a listener with a short queue has no room
/// for more. A second SYN from the same port, with another sequence number, is answered by what
/// makes the kernel reset the first (RFC 9293 3.5.1).
void Feeler::take_back(Knock &knock, const Endpoint &to) {
    const Endpoint from = knock.socket.local();
    knock.socket = Socket::open(to.family(), SOCK_STREAM);
    if (knock.socket && ::bind(knock.socket.fd(), from.data(), from.length()) == 0)
        static_cast<void>(::connect(knock.socket.fd(), to.data(), to.length()));
}

bool Feeler::begin_at_own(Knock &knock, const Endpoint &to) {
    const Endpoint any_port = to.with_port(0);
    knock.own = Socket::open(to.family(), SOCK_STREAM, IPPROTO_SCTP);
    knock.socket = Socket::open(to.family(), SOCK_STREAM, IPPROTO_SCTP);
    if (!knock.own || ::bind(knock.own.fd(), any_port.data(), any_port.length()) != 0 ||
        ::listen(knock.own.fd(), SOMAXCONN) != 0)
        return false;
    const Endpoint there = knock.own.local();
    if (::connect(knock.socket.fd(), there.data(), there.length()) != 0 && errno != EINPROGRESS)
        return false;
    knock.socket.reset_when_closed();
    knock.without_room = Clock::now();
    look_whether_own_answers(knock);
    return true;
}

void Feeler::look_whether_own_answers(Knock &knock) {
    const Time now = Clock::now();
    // (An ABORT, as where somebody else has filled the queue, has come through as well; what a
    // firewall refuses with is not felt.)
    pollfd felt{.fd = knock.socket.fd(), .events = 0, .revents = 0};
    const bool is_answered = !knock.socket.remote().empty() || ::poll(&felt, 1, 0) > 0;
    if (!is_answered && now - knock.without_room < BellWay::silence_time) {
        knock.timer.set(now + BellWay::between_looks,
                        [this, &knock] { look_whether_own_answers(knock); });
        return;
    }
    knock.socket.reset();
    knock.own.reset();
    const bool was_silent = std::exchange(knock.was_silent, !is_answered);
    if (!is_answered) {
        begin_later(knock);
        felt_(knock.listener, filtered);
    } else if (was_silent) {
        felt_(knock.listener, nullptr);
    }
}

void Feeler::listens_again(std::uint64_t before, std::uint64_t now) {
    if (auto knock = knocks_.extract(before)) {
        knock.key() = now;
        knocks_.insert(std::move(knock));
    }
}

} // namespace synergy
