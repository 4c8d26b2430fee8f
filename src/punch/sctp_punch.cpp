#include "punch/sctp_punch.h"

#include "base/log.h"
#include "punch/beside.h"
#include "punch/failure.h"
#include "punch/sctp_error.h"
#include "punch/sctp_hole.h"
#include "server/sctp_socket.h"

#include <algorithm>
#include <utility>

#include <linux/filter.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>

namespace synergy {

using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

/// Between INITs. Shorter than the 3 s for which a tracker may keep a half-open association
/// (nf_conntrack_sctp_timeout_cookie_wait), and than the 3 s after which a peer's client repeats
/// its own (Linux).
constexpr Duration period = milliseconds(1650);
/// So late is the next INIT at most, where it can't be had sooner.
constexpr Duration longest = milliseconds(2500);
/// By then the kernel would repeat an INIT. It is what it takes without us, and stays with the
/// association.
constexpr Duration kernels_own = seconds(3);

/// A peer that has called repeats what was lost after 3 s.
constexpr Duration handshake_time = seconds(7);
constexpr Duration between_looks = milliseconds(100);

/// How often to see whether an earlier association with the peer is over.
constexpr Duration rest = seconds(1);

} // namespace

SctpPunch::SctpPunch(const PunchContext &context, Hole hole)
    : Punch(context, std::move(hole)), is_v4_(hole_.is_v4()),
      begin_(context.owner.begin_of(hole_, sctp::hole_lifetime)), timer_(context.scheduler) {}

SctpPunch::~SctpPunch() {
    close_socket();
}

void SctpPunch::close_socket() {
    if (socket_)
        context_.scheduler.unwatch(socket_.fd());
    socket_.reset();
}

int SctpPunch::open() {
    return socket_ ? 0 : punch();
}

/// Empty and errno set if there can be none.
Socket SctpPunch::bound_socket() const {
    const ServerSocket &server = hole_.server;
    Socket socket = open_beside(server, IPPROTO_SCTP);
    if (!socket)
        return {};
    sctp_rtoinfo timeouts{};
    timeouts.srto_initial = kernels_own / milliseconds(1);
    sctp_initmsg init{};
    init.sinit_num_ostreams = server.streams_out;
    init.sinit_max_instreams = server.streams_in;
    if (!sctp::set(socket.fd(), SCTP_RTOINFO, timeouts) ||
        !sctp::set(socket.fd(), SCTP_INITMSG, init))
        return {};
    // The server may wait for the notification that the association is up.
    sctp::set(socket.fd(), SCTP_EVENTS, server.events);
    if (!bind_beside(socket, server, context_.settings, is_v4_))
        socket.reset();
    return socket;
}

/// A peer's INIT has been answered: what it sends next is for this socket alone.
bool SctpPunch::has_answered() const {
    return context_.owner.control_chunks(hole_.peer.unmapped(), own_) != 0;
}

bool SctpPunch::has_association() const {
    const auto earlier = associations_.find(hole_.server.local, hole_.peer);
    return earlier && earlier->is_there;
}

void SctpPunch::wait_for_its_end() {
    const bool is_first = !std::exchange(rests_, true);
    if (is_first)
        log::debug("{}: waits for an earlier association to be over", hole_.text());
    // It may be ending just now.
    retry_at(Clock::now() + (is_first ? between_looks : rest));
}

/// What comes from now on is dropped, and sent again as always, until it is heard again. (Linux
/// asks a socket's filter before it looks at any chunk, sctp_rcv().)
void SctpPunch::hear(bool is_to_hear) const {
    sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
    const sock_fprog program{.len = 1, .filter = &drop};
    if (is_to_hear)
        socket_.set(SOL_SOCKET, SO_DETACH_FILTER, 0);
    else
        setsockopt(socket_.fd(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

/// Whether the last socket is a connection by now, which is the server's then. If not, it is deaf
/// from here on: a call that came before it is closed would get a reset.
bool SctpPunch::look_for_a_connection() {
    hear(false);
    if (socket_.remote().empty())
        return false;
    hear(true);
    established();
    return true;
}

/// The same of a call that has been answered: the last socket is to go on then, too.
bool SctpPunch::look_for_a_call() {
    if (!socket_)
        return false;
    if (look_for_a_connection())
        return true;
    if (Clock::now() >= punched_ + handshake_time || !has_answered())
        return false;
    hear(true);
    retry_at(Clock::now() + between_looks);
    return true;
}

/// What the last INIT has met, if it was told of and not felt: an ABORT of the peer's is felt.
int SctpPunch::error_told() const {
    pollfd felt{.fd = socket_.fd(), .events = 0, .revents = 0};
    return ::poll(&felt, 1, 0) == 0 ? socket_.get(SOL_SOCKET, SO_ERROR, 0) : 0;
}

/// Whether a firewall of this host's own refuses the INIT: that has said so by now. Somebody else's
/// refusal may be there as well, or comes later.
bool SctpPunch::is_refused_here() {
    const int error = error_told();
    if (error == 0)
        return false;
    const Duration after = Clock::now() - punched_;
    if (sctp::is_by_this_host(error, hole_, after,
                              context_.owner.find_dying_hop(hole_, hop_limit()),
                              context_.scheduler.lateness()))
        return true;
    tell_of(error, true);
    return false;
}

/// An error that has come from beyond this host, as far as is known.
void SctpPunch::tell_of(int error, bool is_sure) {
    if (error != 0)
        answered();
    if (const auto refusal = sctp::refusal_of(error); refusal && is_sure && !is_answer_)
        refused(*refusal);
}

/// It takes the place of the one before. 0 or an errno.
int SctpPunch::send_init(Socket socket, const Endpoint &own, bool is_answer) {
    // (Later it may be that of an INIT which the kernel has sent again, with its own hop limit.)
    const int error = socket_ && Clock::now() < punched_ + kernels_own ? error_told() : 0;
    // (One alone may be of a firewall on this host that was slow to say so, and has changed since.)
    tell_of(error, error == std::exchange(told_last_, error));
    if (!is_answer)
        next_hop_limit();
    set_hop_limit(socket, is_v4_,
                  is_answer ? ordinary_hop_limit(hole_.server, is_v4_) : hop_limit());
    close_socket();
    socket_ = std::move(socket);
    own_ = own;
    is_answer_ = is_answer;
    punched_ = Clock::now();
    if (::connect(socket_.fd(), hole_.peer.data(), hole_.peer.length()) != 0 &&
        errno != EINPROGRESS)
        return sctp::connect_error(errno);
    if (is_refused_here())
        return EPERM;
    set_hop_limit(socket_, is_v4_, ordinary_hop_limit(hole_.server, is_v4_));
    return 0;
}

/// A peer that has called while the INIT left has got an answer that dies on its way, unless it
/// has come in. Its own firewall is open for an INIT of ours, which is no punch any more, and is
/// answered. 0 or an errno.
int SctpPunch::answer(const Endpoint &own) {
    Socket next_socket = bound_socket();
    const int error = next_socket ? 0 : errno;
    if (look_for_a_connection())
        return 0;
    return error == 0 ? send_init(std::move(next_socket), own, true) : error;
}

int SctpPunch::punch() {
    if (!context_.owner.check_alive(hole_.server)) {
        close_socket();
        return EBADF;
    }
    // Other than TCP, the kernel would allow a second one of the same two ends, and give it what is
    // meant for the first.
    if (!socket_ && has_association()) {
        wait_for_its_end();
        return 0;
    }
    rests_ = false;
    // Where there is no way, SCTP begins all the same, and sends nothing.
    Endpoint source;
    int error = route_error(hole_.server.local, hole_.peer, Transport::sctp, &source);
    Endpoint own = address_beside(hole_.server, context_.settings, is_v4_).unmapped();
    if (own.is_wildcard())
        own = source.with_port(own.port());
    Socket next_socket = error == 0 ? bound_socket() : Socket();
    if (error == 0 && !next_socket)
        error = errno;
    if (look_for_a_call())
        return 0;
    if (error == 0)
        error = send_init(std::move(next_socket), own, false);
    if (error == 0)
        begin_->leaves(punched_);
    if (error == 0 && Clock::now() >= punched_ + sctp::unusual && has_answered())
        error = answer(own);
    if (error == 0 && !socket_)
        return 0;
    // A server that listens again has not let others in yet.
    if (error == EADDRINUSE && Clock::now() < punched_ + longest) {
        if (socket_)
            hear(true); // the last one stays
        retry_at(Clock::now() + between_looks);
        return 0;
    }
    // It has come about by the listener itself.
    if (error == EISCONN) {
        close_socket();
        wait_for_its_end();
        return 0;
    }
    if (error != 0)
        return failed(error);
    failures_ = 0;
    if (punched(socket_.local()))
        recovered();
    if (!context_.scheduler.watch(socket_.fd(), EPOLLOUT,
                                  [this](std::uint32_t events) { happened(events); }))
        return failed(errno);
    retry_at(is_answer_ ? punched_ + period : sctp::next_init(punched_, *begin_, period));
    return 0;
}

void SctpPunch::happened(std::uint32_t events) {
    if (!socket_.remote().empty()) {
        established();
    } else if (events & (EPOLLERR | EPOLLHUP)) {
        const int error = socket_.get(SOL_SOCKET, SO_ERROR, 0);
        // An answer's is of a peer that has called and is there no more; so is that of an INIT
        // which the kernel has sent again, while we were kept from running.
        const bool is_punchs = !is_answer_ && Clock::now() < punched_ + kernels_own;
        if (error == ECONNREFUSED && !is_punchs)
            log::debug("{}: the peer that has called is there no more", hole_.text());
        else if (error == ECONNREFUSED)
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
    close_socket();
    retry_at(Clock::now() + retry_delay(++failures_ + 1, context_.settings.refresh));
}

void SctpPunch::retry_at(Time time) {
    timer_.set(time, [this] { punch(); });
}

void SctpPunch::established() {
    context_.scheduler.unwatch(socket_.fd());
    set_hop_limit(socket_, is_v4_, ordinary_hop_limit(hole_.server, is_v4_));
    sctp::keep_alive(socket_.fd(), 0);
    static_cast<void>(socket_.get(SOL_SOCKET, SO_ERROR, 0)); // the punch's, and not the server's
    failures_ = 0;
    recovered();
    log::info("{}: connected", hole_.text());
    proved();
    Socket connection = std::move(socket_);
    if (associations_.find(hole_.server.local, hole_.peer))
        retry_at(Clock::now() + between_looks); // it may be refused, or short
    else
        log::warn("{}: /proc can't be read, so nobody knows when the connection ends: the hole is "
                  "not opened again",
                  hole_.text());
    context_.owner.deliver(std::move(connection), hole_.peer, hole_.server);
}

} // namespace synergy
