#include "punch/sctp_punch.h"

#include "base/log.h"
#include "punch/beside.h"
#include "server/sctp_socket.h"

#include <cstring>
#include <netinet/in.h>
#include <sys/epoll.h>

namespace synergy {

using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

/// How often to look for the error of an INIT, which no event tells of.
constexpr Duration glance = milliseconds(10);

/// The first INIT's error tells the round trip; one that takes longer is not waited for.
constexpr Duration longest_round_trip = milliseconds(300);

/// How often to see whether an earlier association with the peer is over.
constexpr Duration rest = seconds(1);

} // namespace

SctpPunch::SctpPunch(const PunchContext &context, Hole hole)
    : Punch(context, std::move(hole)), is_v4_(hole_.is_v4()), timer_(context.scheduler) {}

SctpPunch::~SctpPunch() {
    if (socket_)
        context_.scheduler.unwatch(socket_.fd());
}

int SctpPunch::open() {
    // The kernel renews it.
    return socket_ ? 0 : punch();
}

bool SctpPunch::try_bind() {
    const ServerSocket &server = hole_.server;
    socket_ = open_beside(server, IPPROTO_SCTP);
    if (!socket_)
        return false;
    // The INIT again after this time, without doubling it, and as often as can be had.
    constexpr auto period_ms = static_cast<std::uint16_t>(InitClock::period / milliseconds(1));
    sctp_rtoinfo timeouts{};
    timeouts.srto_initial = timeouts.srto_max = period_ms;
    sctp_initmsg init{};
    init.sinit_max_init_timeo = period_ms;
    init.sinit_max_attempts = UINT16_MAX;
    init.sinit_num_ostreams = server.streams_out;
    init.sinit_max_instreams = server.streams_in;
    if (!sctp::set(socket_.fd(), SCTP_RTOINFO, timeouts) ||
        !sctp::set(socket_.fd(), SCTP_INITMSG, init))
        return false;
    // The server may wait for the notification that the association is up.
    sctp::set(socket_.fd(), SCTP_EVENTS, server.events);
    return bind_beside(socket_, server, context_.settings, is_v4_);
}

int SctpPunch::punch() {
    if (socket_) {
        context_.scheduler.unwatch(socket_.fd());
        socket_.reset();
    }
    if (!context_.check_alive(hole_.server))
        return EBADF;
    // Other than TCP, the kernel would allow a second one of the same two ends, and give it what is
    // meant for the first.
    auto earlier = associations_.find(hole_.server.local, hole_.peer);
    if (earlier && earlier->is_there) {
        if (!rests_)
            log::debug("{}: waits for an earlier association to be over", hole_.text());
        rests_ = true;
        retry_at(Clock::now() + rest);
        return 0;
    }
    rests_ = false;
    if (!try_bind())
        return failed(errno);
    next_hop_limit();
    set_hop_limit(socket_, is_v4_, hop_limit());
    if (::connect(socket_.fd(), hole_.peer.data(), hole_.peer.length()) != 0 &&
        errno != EINPROGRESS)
        return failed(errno);
    set_hop_limit(socket_, is_v4_, ordinary_hop_limit);
    clock_.sent(Clock::now());
    punched();
    if (!context_.scheduler.watch(socket_.fd(), EPOLLOUT,
                                  [this](std::uint32_t events) { happened(events); }))
        return failed(errno);
    await_first_error();
    return 0;
}

/// The kernel keeps the error that an INIT died with for who asks, and does nothing else about it.
bool SctpPunch::take_error() const {
    return socket_.get(SOL_SOCKET, SO_ERROR, 0) != 0;
}

void SctpPunch::await_first_error() {
    Time now = Clock::now();
    if (take_error()) {
        clock_.first_error_came(now);
    } else if (now < clock_.from() - InitClock::period + longest_round_trip) {
        timer_.set(now + glance, [this] { await_first_error(); });
        return;
    }
    await_repetition();
}

void SctpPunch::await_repetition() {
    timer_.set(clock_.from(), [this] {
        // At the cost of a peer that is being answered at this very moment.
        if (clock_.is_vague()) {
            punch();
            return;
        }
        if (!context_.check_alive(hole_.server))
            return;
        next_hop_limit();
        set_hop_limit(socket_, is_v4_, hop_limit());
        static_cast<void>(take_error()); // one that came too late to tell anything
        look_for_repetition(Clock::now());
    });
}

void SctpPunch::look_for_repetition(Time asked) {
    Time now = Clock::now();
    if (take_error()) {
        clock_.error_came(asked, now);
    } else if (now < clock_.until()) {
        timer_.set(now + glance, [this, now] { look_for_repetition(now); });
        return;
    } else {
        clock_.unseen();
    }
    set_hop_limit(socket_, is_v4_, ordinary_hop_limit);
    failures_ = 0;
    await_repetition();
}

void SctpPunch::happened(std::uint32_t events) {
    if (!socket_.remote().empty()) {
        established();
    } else if (events & (EPOLLERR | EPOLLHUP)) {
        const int error = socket_.get(SOL_SOCKET, SO_ERROR, 0);
        if (error == ECONNREFUSED)
            refused({.answer = HopAnswer::refused, .from = {}});
        else
            failed_by(error != 0 ? strerrordesc_np(error) : "the association has broken off",
                      error != 0 ? error : ECONNRESET);
        begin_again();
    }
}

int SctpPunch::failed(int error) {
    failed_here(error);
    begin_again();
    return error;
}

void SctpPunch::begin_again() {
    if (socket_)
        context_.scheduler.unwatch(socket_.fd());
    socket_.reset();
    retry_at(Clock::now() + retry_delay(++failures_ + 1, context_.settings.refresh));
}

void SctpPunch::retry_at(Time time) {
    timer_.set(time, [this] { punch(); });
}

void SctpPunch::established() {
    context_.scheduler.unwatch(socket_.fd());
    set_hop_limit(socket_, is_v4_, ordinary_hop_limit);
    sctp::keep_alive(socket_.fd(), 0);
    static_cast<void>(take_error()); // the punch's, and not the server's
    failures_ = 0;
    recovered();
    log::info("{}: connected", hole_.text());
    proved();
    Socket connection = std::move(socket_);
    if (associations_.find(hole_.server.local, hole_.peer))
        retry_at(Clock::now() + rest);
    else
        log::warn("{}: /proc can't be read, so nobody knows when the connection ends: the hole is "
                  "not opened again",
                  hole_.text());
    context_.deliver(std::move(connection), hole_.peer, hole_.server);
}

} // namespace synergy
