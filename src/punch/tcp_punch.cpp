#include "punch/tcp_punch.h"

#include "base/log.h"
#include "punch/backstop.h"
#include "punch/beside.h"
#include "punch/failure.h"
#include "punch/syn_error.h"
#include "punch/syn_socket.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/epoll.h>

namespace synergy {

using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

/// How long the error of a punch may take where that has not been measured.
constexpr Duration error_window = milliseconds(150);
/// A router may be slower than it was when it was asked, and so may we.
constexpr Duration margin = milliseconds(8);

/// An error that comes late widens the window; many in a row are about something else.
constexpr unsigned few_failures = 4;

/// What one of many punches takes to be prepared for its SYN (measured: 20 to 40 us).
constexpr Duration time_for_one = std::chrono::microseconds(20);

/// How often to see whether the four-tuple of an ended connection is free again (TIME_WAIT lasts
/// 60 s on Linux), and after that of one that lives on.
constexpr Duration rest = seconds(1);
constexpr Duration long_rest = seconds(5);
constexpr unsigned short_rests = 120;

/// A peer's SYN may have to be answered several times: 1, 3 and 7 s after the first.
constexpr Duration handshake_time = seconds(15);

/// From 0 to 1, far apart for ports that are near each other (multiples of the golden ratio are).
double stagger_of(std::uint16_t port) {
    const double turns = port * 0.6180339887;
    return turns - std::floor(turns);
}

} // namespace

TcpPunch::TcpPunch(const PunchContext &context, Hole hole)
    : Punch(context, std::move(hole)), is_v4_(hole_.is_v4()), deaf_hop_limit_(deaf_to_most),
      guard_(is_v4_ ? Duration::zero() : error_window, context.settings.refresh, context.timers,
             context.owner.begin_of(hole_, Guard::hole_lifetime), stagger_of(hole_.peer.port())),
      timer_(context.scheduler), probe_(context.scheduler) {}

TcpPunch::~TcpPunch() {
    close_socket();
}

/// At once: after a SYN of the peer's, close() alone would begin to take leave of it (RFC 9293
/// 3.10.4), and be at that for minutes if it is gone, with the port and the hole taken. The reset
/// that goes instead is for nobody.
void TcpPunch::close_socket() {
    if (!socket_)
        return;
    context_.scheduler.unwatch(socket_.fd());
    socket_.reset_when_closed();
    set_hop_limit(socket_, is_v4_, hop_limit_min);
    socket_.reset();
}

std::vector<std::uint64_t> TcpPunch::cookies() const {
    std::vector<std::uint64_t> all;
    for (const Socket *socket : {&socket_, &spent_, &backstop_})
        if (*socket)
            all.push_back(cookie_of(socket->fd()));
    return all;
}

/// The listener would answer with a sequence number that no firewall expects: the peer would be
/// connected to nobody.
bool TcpPunch::let_end() {
    is_ending_ = true;
    return bool(socket_);
}

/// Nothing of the socket changes: no SYN leaves by that, and whoever calls meanwhile is met. Were
/// the other one late, the kernel would let none out with the ordinary hop limit (guard.h).
std::optional<PunchOnItsWay> TcpPunch::give_away() {
    if (!socket_ || rests_ > 0 || is_ending_)
        return std::nullopt;
    is_ending_ = true;
    probe_.stop();
    timer_.cancel();
    context_.scheduler.unwatch(socket_.fd());
    PunchOnItsWay given{.socket = std::move(socket_),
                        .backstop = std::move(backstop_),
                        .standing = guard_.standing()};
    given.standing.dropped_before = dropped_before_;
    return given;
}

void TcpPunch::take_over(PunchOnItsWay given) {
    close_socket();
    spent_.reset();
    socket_ = std::move(given.socket);
    backstop_ = std::move(given.backstop);
    socket_has_ = hole_.server.chosen;
    guard_.take_over(given.standing);
    dropped_before_ = given.standing.dropped_before;
    context_.timers.sample();
    left_to_repeat_ = rests_ = failures_ = 0;
    departures_.begin(info_of(socket_).tcpi_total_retrans);
    if (hop_limit() == 0)
        next_hop_limit();
    follow_dying_hop();
    punched(socket_.local());
    if (!context_.scheduler.watch(socket_.fd(), EPOLLOUT, [this](std::uint32_t) { happened(); })) {
        begin_again();
        return;
    }
    // What has come unheard may not have been asked yet.
    if (guard_.phase() == Guard::Phase::open && !guard_.is_answering() && has_missed_peer() &&
        ask_what_came())
        schedule();
    else
        tick();
}

bool TcpPunch::make_way() {
    if (!socket_ || info_of(socket_).tcpi_state != state_syn_sent)
        return false; // the peer's connection
    close_socket();
    retry_at(Clock::now() + rest);
    return true;
}

int TcpPunch::open() {
    const bool was_ending = std::exchange(is_ending_, false);
    // What has left meanwhile opened nothing.
    if (was_ending && socket_ && busy_until_ == Time{} && !has_missed_peer() &&
        info_of(socket_).tcpi_state == state_syn_sent) {
        probe_.stop();
        if (!go_back())
            close_socket();
    }
    // Renewing by hand would be a SYN with another sequence number (guard.h).
    if (!socket_ || rests_ > 0)
        return punch();
    happened();
    return 0;
}

void TcpPunch::set_user_timeout(Duration timeout) {
    auto count = std::chrono::duration_cast<milliseconds>(timeout).count();
    socket_.set(IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(count));
}

/// Sets the socket as the guard wants it, which wanted it another way `before`. Deaf before low and
/// low until deaf no more: in between, the peer's SYN would get an answer that dies on its way.
void TcpPunch::follow_guard(Guard::Phase before) {
    const Guard::Phase phase = guard_.phase();
    if (phase == before)
        return;
    if (phase == Guard::Phase::low) {
        hear_from(guard_.is_awaiting() ? deaf_to_all : deaf_hop_limit_);
        next_hop_limit();
        // The socket is there to hear, if its hole ends: what it sends is not to open another one.
        set_hop_limit(socket_, is_v4_, is_ending_ ? hop_limit_min : hop_limit());
        // Not before, since the kernel gives up where this comes too late.
        set_user_timeout(guard_.user_timeout());
        follow_dying_hop();
        return;
    }
    if (before == Guard::Phase::low)
        set_hop_limit(socket_, is_v4_, ordinary_hop_limit(hole_.server, is_v4_));
    hear_from(phase == Guard::Phase::open ? hears_all : deaf_hop_limit_);
}

/// Until the next call nothing with less is heard: the error of its own punch is not to end the
/// socket.
void TcpPunch::hear_from(int least_hop_limit) {
    // With IPv4 the error is told from the peer's SYN by its own TTL.
    if (is_v4_ && !guard_.is_awaiting())
        least_hop_limit = hears_all;
    let_hear(socket_, hole_, least_hop_limit, hop_limit());
}

/// Takes the socket out of SYN_SENT, or of what has become of that, for the next punch. The kernel
/// gives the next SYN of the same socket a number that comes right after the last one's, which a
/// firewall takes for the one that counts now: at once as long as it has not seen the peer's SYN,
/// and where it has, as soon as the peer repeats that. (A new socket's number is the clock's, and
/// comes before where the last ones have all followed from a connection's before them, in
/// TIME_WAIT, and so have fallen behind the clock: whoever calls then is connected, and the
/// firewall drops all that he is sent.)
bool TcpPunch::go_back() {
    if (!socket_ || is_ending_)
        return false;
    context_.scheduler.unwatch(socket_.fd());
    sockaddr nobody{};
    nobody.sa_family = AF_UNSPEC;
    if (::connect(socket_.fd(), &nobody, sizeof nobody) != 0)
        return false;
    static_cast<void>(socket_.get(SOL_SOCKET, SO_ERROR, 0)); // that it was interrupted
    set_hop_limit(socket_, is_v4_, ordinary_hop_limit(hole_.server, is_v4_));
    let_hear(socket_, hole_, hears_all, hop_limit_min);
    spent_ = std::move(socket_);
    return true;
}

int TcpPunch::bind_socket() {
    if (spent_ && begin_alike(socket_has_, hole_.server.chosen) &&
        spent_.local() == address_beside(hole_.server, context_.settings, is_v4_))
        socket_ = std::move(spent_);
    else
        socket_ = syn_socket_beside(hole_, context_.settings);
    spent_.reset();
    socket_has_ = hole_.server.chosen;
    if (socket_) {
        guard_.begin();
        return 0;
    }
    const int error = errno;
    if (!hole_.server.is_shut_down)
        failed_here(error);
    retry_at(Clock::now() + retry_delay(++failures_ + 2, context_.settings.refresh));
    return error;
}

int TcpPunch::begin_connecting() {
    const auto connect = [this] {
        return ::connect(socket_.fd(), hole_.peer.data(), hole_.peer.length()) == 0 ? 0 : errno;
    };
    const int error = connect();
    if (error != EADDRNOTAVAIL || !backstop_)
        return error;
    backstop_.reset(); // lest that be what is in the way
    return connect();
}

int TcpPunch::punch() {
    if (is_ending_) {
        backstop_.reset();
        return 0;
    }
    if (!context_.owner.check_alive(hole_.server))
        return EBADF;
    if (!socket_)
        if (int error = bind_socket(); error != 0)
            return error;
    if (!backstop_ && rests_ == 0)
        if (const auto route = context_.owner.route_of(hole_); route)
            backstop_ = backstop_of(hole_, context_.settings, *route);
    Guard::Phase before = guard_.phase();
    guard_.sending();
    follow_guard(before);
    context_.timers.sample();
    departures_.begin(0);
    left_to_repeat_ = 0;
    dropped_before_ = meminfo_of(socket_.fd(), SK_MEMINFO_DROPS);
    const Time asked = Clock::now();
    int error = begin_connecting();
    if (error == EADDRNOTAVAIL) {
        // The four-tuple is in use: a connection lives, or rests (RFC 9293 3.6.1), that a punch has
        // become or that the listener itself has answered. Or there is no source address at all.
        if (rests_++ == 0) {
            if (has_source_toward(hole_.peer))
                log::debug("{}: a connection has these ends already, or had them a moment ago: "
                           "waits for that to be over",
                           hole_.text());
            else
                failed_here(error);
        }
        retry_at(Clock::now() + (rests_ > short_rests ? long_rest : rest));
        return 0;
    }
    if (error != 0 && error != EINPROGRESS) {
        failed_here(error);
        retry_at(Clock::now() + end_punch());
        return error;
    }
    rests_ = 0;
    connected_from_ = {};
    Time now = Clock::now();
    before = guard_.phase();
    guard_.sent(asked, now, was_connected_);
    was_connected_ = false;
    set_user_timeout(guard_.user_timeout());
    punched(socket_.local());
    if (!context_.scheduler.watch(socket_.fd(), EPOLLOUT, [this](std::uint32_t) { happened(); })) {
        error = errno;
        failed_here(error);
        retry_at(Clock::now() + end_punch());
        return error;
    }
    follow_guard(before);
    schedule();
    return 0;
}

/// Where the punch dies, and how long that takes, as far as it is known.
void TcpPunch::follow_dying_hop() {
    if (is_v4_)
        return;
    const auto hop = context_.owner.find_dying_hop(hole_, hop_limit());
    is_round_trip_known_ = hop.has_value();
    if (!hop)
        return;
    guard_.expect_error_within(hop->round_trip * 5 / 4 + margin);
    if (hop->answer_hop_limit >= deaf_to_most)
        deaf_hop_limit_ = deaf_to_all;
}

void TcpPunch::schedule() {
    constexpr Duration shortly = milliseconds(10);
    // The first punch goes before the way is known.
    const bool is_to_be_known = !is_v4_ && !is_round_trip_known_ && guard_.is_error_due();
    timer_.set(is_to_be_known ? std::min(guard_.next(), Clock::now() + shortly) : guard_.next(),
               [this] { tick(); });
}

void TcpPunch::tick() {
    const Time now = Clock::now();
    tcp_info info = info_of(socket_);
    if (info.tcpi_state != state_syn_sent) {
        happened();
        return;
    }
    if (is_ending_ && busy_until_ == Time{} && now >= guard_.hole_ends()) {
        begin_again(); // which it does not
        return;
    }
    if (missed_calls() > left_to_repeat_) {
        if (open_in_time()) {
            answer_peer(false);
            return;
        }
        if (guard_.phase() != Guard::Phase::open)
            guard_.peer_was_missed();
        else if (answer_missed_call())
            return;
        info = info_of(socket_);
    }
    context_.timers.sample();
    look_whether_syns_leave(info);
    // Holes that were opened together are due together, and each has to wait for the others.
    const Duration others = time_for_one * static_cast<int>(context_.scheduler.pending());
    guard_.expect_lateness(std::max(context_.scheduler.lateness(), others));
    if (guard_.is_error_due() && !is_round_trip_known_)
        follow_dying_hop();
    const Duration timeout = guard_.user_timeout();
    const Guard::Phase before = guard_.phase();
    guard_.tick(now, timer_of(info));
    if (info.tcpi_retransmits > 0)
        failures_ = 0;
    if (guard_.phase() == Guard::Phase::low && before != Guard::Phase::low) {
        if (!context_.owner.check_alive(hole_.server))
            return;
        if (would_leave_from_elsewhere(socket_, hole_, context_.settings)) {
            log::info("{}: punched from another address now", hole_.text());
            context_.scheduler.unwatch(socket_.fd());
            socket_.reset();
            backstop_.reset();
            punch();
            return;
        }
    }
    follow_guard(before);
    if (guard_.phase() == Guard::Phase::open && missed_calls() > left_to_repeat_ &&
        !ask_what_came() && answer_missed_call())
        return;
    if (guard_.user_timeout() != timeout)
        set_user_timeout(guard_.user_timeout());
    schedule();
}

/// Something has come unheard behind the last SYN: a call, or a reset. False where it can't be
/// asked. (IPv4's punches are deaf to neither.)
bool TcpPunch::ask_what_came() {
    return !is_v4_ && probe_.ask(socket_.local(), hole_.peer, hop_limit(), guard_.window(),
                                 [this](int error) { know_what_came(error); });
}

void TcpPunch::know_what_came(int error) {
    if (!socket_ || info_of(socket_).tcpi_state != state_syn_sent)
        return;
    // Its own error has come, or that of a router who knows no way on, or nothing at all.
    if (error == EHOSTUNREACH || error == ENETUNREACH || error == ETIMEDOUT) {
        tick();
    } else if (error == 0) {
        refused({.answer = HopAnswer::accepted, .from = {}});
        begin_again();
    } else {
        failed(error);
    }
}

/// Calls of the peer's are counted, and resets; the ICMP error is not.
unsigned TcpPunch::missed_calls() const {
    return probe_.is_asking() ? 0 : meminfo_of(socket_.fd(), SK_MEMINFO_DROPS) - dropped_before_;
}

bool TcpPunch::has_missed_peer() const {
    return missed_calls() != 0;
}

/// The peer has called while its hole was deaf for a SYN that has not left yet: that one may go all
/// the way. False if it has left after all.
bool TcpPunch::open_in_time() {
    if (!guard_.is_awaiting() || !guard_.knows_all(timer_of(info_of(socket_))))
        return false;
    guard_.peer_called();
    follow_guard(Guard::Phase::low);
    if (guard_.knows_all(timer_of(info_of(socket_))))
        return true;
    guard_.called_too_late();
    follow_guard(Guard::Phase::open);
    return false;
}

/// The peer has called unheard, and its own firewall is open for our SYN all the same. But a client
/// that uses MPTCP may not notice that it is connected by that (Linux 6.18: connect() does not
/// return). So its next call is waited for, where that will be heard. False then.
bool TcpPunch::answer_missed_call() {
    if (guard_.wait_for_next_call()) {
        left_to_repeat_ = missed_calls();
        set_user_timeout(guard_.user_timeout());
        return false;
    }
    answer_peer(false);
    return true;
}

/// The peer has knocked. If it was not heard, our next SYN is no punch any more but the answer: it
/// may go all the way, and completes the connection. Either way the kernel does the rest, and gets
/// the time of a handshake for it.
void TcpPunch::answer_peer(bool was_heard) {
    const Time now = Clock::now();
    const Guard::Phase before = guard_.phase();
    if (was_heard)
        guard_.peer_was_heard(now);
    else
        guard_.peer_called();
    follow_guard(before);
    set_user_timeout(Duration::zero());
    if (busy_until_ == Time{})
        busy_until_ = now + handshake_time;
    const Time look = now + milliseconds(200);
    if (now < busy_until_)
        timer_.set(guard_.phase() == Guard::Phase::deaf ? std::min(guard_.next(), look) : look,
                   [this] { tick(); });
    else
        failed(ETIMEDOUT);
}

void TcpPunch::look_whether_syns_leave(const tcp_info &info) {
    const auto found = departures_.look(socket_, info, hole_, context_.settings);
    if (!found)
        return;
    if (found->has_left) {
        is_unreachable_here_ = false;
        if (info.tcpi_retransmits > 0 && has_failed() &&
            mute_gateway_cause(hole_.server.local, hole_.peer).empty())
            recovered();
    } else if (found->error != 0) {
        failed_here(found->error);
    } else if (!found->cause.empty()) {
        failed_by(found->cause, EPERM);
    }
}

/// The socket is no longer in SYN_SENT.
void TcpPunch::happened() {
    switch (info_of(socket_).tcpi_state) {
    case state_syn_sent:
        return;
    case state_syn_received:
        // The peer's SYN has come.
        answer_peer(true);
        return;
    default:
        break;
    }
    // In this order: a reset that comes in between is an error then.
    const bool is_connected = !socket_.remote().empty();
    const int error = socket_.get(SOL_SOCKET, SO_ERROR, EIO);
    if (error == 0 && is_connected)
        established();
    else
        failed(error);
}

void TcpPunch::failed(int error) {
    // Then the last SYN went all the way, and what came back for it says nothing about punches.
    // (A reset in SYN_SENT would be ECONNREFUSED: the peer has come, and gone before it was seen.)
    const bool was_answering =
        std::exchange(busy_until_, Time{}) != Time{} || error == ECONNRESET || error == EPIPE;
    const IcmpError answer = take_error_of_syn(socket_, error);
    log::debug("{}: the punch has ended: {}", hole_.text(), strerrordesc_np(error));
    if (was_answering)
        log::debug("{}: the peer that called is gone: {}", hole_.text(), strerrordesc_np(error));
    else if (error == ETIMEDOUT)
        timed_out();
    else if (answer.answer != HopAnswer::none && answer.answer != HopAnswer::time_exceeded) {
        error_came();
        if (!is_by_this_host(answer, hole_, context_.scheduler.lateness()))
            refused_elsewhere(answer);
        else if (const int here = route_error(hole_.server.local, hole_.peer, Transport::tcp);
                 here != 0)
            failed_here(here);
        else if (!is_of_routing_table(answer, is_v4_)) // which lets it pass again
            refused_here(answer);
    } else if (error == EHOSTUNREACH)
        error_came(); // the punch's own
    else
        failed_by(strerrordesc_np(error), error);
    begin_again();
}

/// A reset does not say whose it is, and one that this host has sent may be looked into when it
/// does so no more: the next one tells.
void TcpPunch::refused_elsewhere(const IcmpError &answer) {
    if (!answer.from.empty() || !has_failed() || std::exchange(is_reset_doubted_, true))
        refused(answer);
}

/// One that comes late may be about a router by which the way does not lead any more.
void TcpPunch::refused_here(const IcmpError &answer) {
    const bool is_sure = answer.answer != HopAnswer::unreachable || is_unreachable_here_;
    const std::string cause =
        silent_cause(hole_.server.local, hole_.peer, context_.settings, is_sure);
    is_unreachable_here_ = mute_gateway_cause(hole_.server.local, hole_.peer).empty();
    is_reset_doubted_ = false;
    if (!cause.empty())
        failed_by(cause, EPERM);
}

/// The window was too short, or did not keep out one that has as many hops left as that.
void TcpPunch::error_came() {
    if (guard_.phase() == Guard::Phase::low)
        deaf_hop_limit_ = deaf_to_all; // which keeps it out
    else if (failures_ < few_failures)
        guard_.error_came(Clock::now());
}

/// The kernel's timer ran out, though we were not late. That is no sign of the clock where SYNs do
/// not leave: then the kernel tries again by a timer of its own.
void TcpPunch::timed_out() {
    if (departures_.is_sound() && !has_failed() && guard_.phase() == Guard::Phase::open &&
        Clock::now() < guard_.next())
        context_.timers.distrust();
}

/// For how long the next one should wait.
Duration TcpPunch::end_punch() {
    if (!go_back())
        close_socket();
    return retry_delay(++failures_, context_.settings.refresh);
}

void TcpPunch::begin_again() {
    const Duration delay = end_punch();
    // Not even once around the loop: whoever calls without it is not heard.
    if (delay == Duration::zero())
        punch();
    else
        retry_at(Clock::now() + delay);
}

/// Where punches can't be had, who gets through to the listener without is not to be kept off.
void TcpPunch::retry_at(Time time) {
    backstop_.reset();
    timer_.set(time, [this] { punch(); });
}

/// Whether it was a SYN of ours that was answered, while none was to get that far: who calls sends
/// one of his own first (RFC 9293 3.5, figure 7). (One that the kernel has repeated while we were
/// kept from running has gone all the way, to a peer that may be calling unheard.)
bool TcpPunch::was_taken() const {
    const tcp_info info = info_of(socket_);
    const bool has_gone_far = guard_.has_gone_far() || (guard_.phase() == Guard::Phase::open &&
                                                        !departures_.knows_all(info));
    return busy_until_ == Time{} && !guard_.is_answering() && info.tcpi_segs_in == 1 &&
           !has_gone_far;
}

void TcpPunch::established() {
    const bool is_too_far = was_taken();
    context_.scheduler.unwatch(socket_.fd());
    const Guard::Phase before = guard_.phase();
    guard_.peer_called();
    follow_guard(before);
    if (!is_v4_)
        socket_.set(IPPROTO_IPV6, IPV6_RECVERR,
                    chosen_number(hole_.server.chosen, IPPROTO_IPV6, IPV6_RECVERR));
    set_user_timeout(Duration::zero());
    failures_ = 0;
    busy_until_ = {};
    was_connected_ = true;
    recovered();
    connected_from_ = socket_.local();
    log::info("{}: connected", hole_.text());
    if (is_too_far) {
        has_come_in();
        refused({.answer = HopAnswer::accepted, .from = {}});
    } else {
        proved();
    }
    Socket connection = std::move(socket_);
    retry_at(Clock::now() + rest);
    // (The kernel tells no peer of a connection that has been reset by now.)
    context_.owner.deliver(std::move(connection), hole_.peer, hole_.server);
}

} // namespace synergy
