#include "handoff/handoff.h"

#include "base/log.h"
#include "server/inherited_options.h"
#include "server/inimitable.h"

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string_view>
#include <sys/epoll.h>
#include <unistd.h>
#include <utility>

namespace synergy {

using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

constexpr const char *confined = "the server accepts under a system call filter of its own, which "
                                 "forbids it to fetch a connection";
constexpr const char *unseen_filter =
    "the server accepts under a system call filter that was set without libc: it may be ended for "
    "fetching a connection";
constexpr const char *not_intercepted =
    "connections were accepted by a call that can't be intercepted (io_uring, or a program that "
    "doesn't use libc, or one without the library)";

constexpr const char *cant_reach_us =
    "who accepts its connections can't reach synergy-keeper (from another network namespace, or a "
    "sandbox that forbids abstract Unix sockets?)";

/// An accept() of ours fetches at once. (One that waits for a processor gets twice as long.)
constexpr Duration fetch_time = milliseconds(800);
/// A server at its limit of open files closes others when it closes them, and one whose queue is
/// full of others' connections accepts them when it does.
constexpr Duration until_there_is_room = milliseconds(100);
/// For an address that is taken away and given again, an interface that comes up, a firewall that
/// is loaded anew.
constexpr Duration obstructed_most = milliseconds(500);
constexpr Duration obstructed_rest = milliseconds(20);
/// For longer than a keeper that did not answer in time is left alone.
constexpr unsigned unanswered_most = 8;
/// A process that is not known of may be killed with a bell in its hand.
constexpr unsigned wordless_most = 1;

/// As little as suffices for further sockets of ours beside it: what the server itself has set, or
/// else what lets in nobody but its own user.
void keep_port(const Socket &connection, const ServerSocket &listener) {
    if (listener.transport != Transport::tcp || !listener.is_prepared)
        return;
    if (listener.lets_others_in)
        connection.set(SOL_SOCKET, SO_REUSEPORT, listener.is_shared ? 1 : 0);
    else
        connection.set(SOL_SOCKET, SO_REUSEADDR, 0);
}

/// Why who has accepted the bell can't have the connection; 0: it does not say.
int refusal_on(const Socket &doorbell) {
    synergy_refusal refusal{};
    const ssize_t size = ::recv(doorbell.fd(), &refusal, sizeof refusal, MSG_DONTWAIT);
    if (size != sizeof refusal ||
        std::memcmp(refusal.text, SYNERGY_REFUSAL_TEXT, sizeof refusal.text) != 0)
        return 0;
    return strerrordesc_np(refusal.error) == nullptr ? EPROTO : refusal.error;
}

/// Whether `accepted` is the doorbell's other end, at a listener with this address. No two
/// connections of one network have the same four-tuple; another address of this host may use the
/// same port.
bool is_other_end(const Socket &accepted, const Socket &doorbell, const Endpoint &listener) {
    return network_of(accepted.fd()) == network_of(doorbell.fd()) &&
           accepted.get(SOL_SOCKET, SO_PROTOCOL, 0) == doorbell.get(SOL_SOCKET, SO_PROTOCOL, -1) &&
           accepted.remote() == doorbell.local() &&
           (accepted.local() == doorbell.remote() ||
            accepted.local() == listener); // SCTP's wildcard
}

bool is_short_of_descriptors(int error) {
    return error == EMFILE || error == ENFILE;
}

std::string lost_line(const ServerSocket &listener, const std::string &why) {
    return listener.text() + ": nothing is punched any more: " + why;
}

/// Memory or time may be had when it rings again.
bool may_pass(int error) {
    return error == ENOENT || error == ENOMEM || error == ENOBUFS || error == EAGAIN ||
           error == ETIMEDOUT || error == EPIPE || error == EBADF;
}

bool is_about_firewalls(int error) {
    return error == EPERM || error == EACCES || error == ENETUNREACH || error == EHOSTUNREACH;
}

} // namespace

Handoff::Offer::~Offer() {
    if (connection)
        connection.reset_when_closed();
}

bool Handoff::check_imitable(const ServerSocket &listener) {
    if (is_out_of_reach(listener.cookie))
        return false;
    const char *what = listener.not_to_be_given;
    // (Of one that does not listen yet nothing is told, and it has just been described.)
    if (what == nullptr && listener.is_ready())
        if (const auto found =
                socket_diag_.find(listener.transport, listener.local, listener.sought()))
            what = found->option_memory == listener.option_memory ? nullptr : what_takes_memory;
    if (what != nullptr)
        give_up(listener, not_to_be_given(what));
    return what == nullptr;
}

bool Handoff::is_there_as_described(const ServerSocket &listener) const {
    if (!listener.accepts() || !listener.is_ready() || listener.not_to_be_given != nullptr ||
        is_out_of_reach(listener.cookie))
        return false;
    const auto found = socket_diag_.find(listener.transport, listener.local, listener.sought());
    return found && found->option_memory == listener.option_memory;
}

void Handoff::offer(Socket connection, const Endpoint &peer, const ServerSocket &listener) {
    auto made = std::make_unique<Offer>(scheduler_, std::move(connection), peer, listener);
    if (!check_imitable(listener))
        return;
    const Id id = next_id_++;
    offers_[id] = std::move(made);
    if (listener.deferred > 0)
        defer(id);
    else
        ring(id);
}

/// What tcp(7) has for a listener with TCP_DEFER_ACCEPT: a connection comes out of accept() with
/// the peer's first data, or its end, or when the time is over; who resets it before has never been
/// there.
void Handoff::defer(Id id) {
    Offer &offer = *offers_.at(id);
    offer.is_deferred = true;
    const auto over = [this, id](std::uint32_t events) {
        end_deferral(*offers_.at(id));
        if ((events & EPOLLERR) != 0)
            offers_.erase(id);
        else
            ring(id);
    };
    scheduler_.watch(offer.connection.fd(), EPOLLIN | EPOLLRDHUP, over);
    offer.timer.set(Clock::now() + seconds(offer.listener.deferred), [over] { over(0); });
}

void Handoff::end_deferral(Offer &offer) {
    if (!std::exchange(offer.is_deferred, false))
        return;
    offer.timer.cancel();
    scheduler_.unwatch(offer.connection.fd());
}

void Handoff::silence(Offer &offer) {
    end_deferral(offer);
    if (offer.port == 0)
        return;
    offer.timer.cancel();
    by_port_.erase(offer.port);
    bells_.silence();
    scheduler_.unwatch(offer.doorbell.fd());
    offer.doorbell.reset();
    offer.port = 0;
}

/// `no`: errno says why.
Handoff::Rung Handoff::connect_doorbell(Offer &offer) {
    const Endpoint to = bell_address(offer.listener);
    Bell bell = way_.bell_for(offer.listener, to);
    Socket &doorbell = bell.socket;
    if (!doorbell && bell.heard == Heard::by_the_server)
        return Rung::no;
    if (!doorbell)
        return bell.heard == Heard::by_others ? Rung::heard_by_others : Rung::heard_by_nobody;
    // Counted before it rings: accept() may return before connect() does.
    bells_.ring();
    offer.ends = owner_.ends();
    if (::connect(doorbell.fd(), to.data(), to.length()) != 0 && errno != EINPROGRESS) {
        const int error = errno;
        bells_.silence();
        errno = error;
        return Rung::no;
    }
    offer.port = doorbell.local().port();
    offer.doorbell = std::move(doorbell);
    offer.has_said = false;
    introduce(offer);
    return Rung::yes;
}

/// As soon as it is connected. A listener with TCP_DEFER_ACCEPT is silent until there is data
/// (tcp(7)), and may have been given that after listen().
void Handoff::introduce(Offer &offer) const {
    const synergy_bell bell = bells_.line();
    // (Were it refused, send() would take the error away.)
    if (!offer.has_said && !offer.doorbell.remote().empty())
        offer.has_said =
            send(offer.doorbell.fd(), &bell, sizeof bell, MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
}

/// Whether the listener is known to be there and to take connections.
bool Handoff::is_there(const ServerSocket &listener) const {
    return socket_diag_.life(listener.transport, listener.local, listener.sought()) ==
           SocketDiag::Life::lives;
}

void Handoff::ring_again(Id id, Duration delay) {
    offers_.at(id)->timer.set(Clock::now() + delay, [this, id] { ring(id); });
}

/// Whether another bell is to ring before this one. The listener's first is to be answered before
/// all others: who does not know what a bell is sees no more than that one. Further on, who waits
/// already comes first.
bool Handoff::is_to_wait(Id id) const {
    const std::uint64_t listener = offers_.at(id)->listener.cookie;
    const bool is_answering = answering_.contains(listener);
    return std::any_of(offers_.begin(), offers_.lower_bound(id), [&](const auto &entry) {
        const Offer &earlier = *entry.second;
        return earlier.listener.cookie == listener &&
               (is_answering ? earlier.is_waiting : !earlier.is_deferred);
    });
}

/// A bell that meets a full queue would be dropped, and come again by the kernel's second.
bool Handoff::is_full(const ServerSocket &listener) const {
    const auto found = socket_diag_.find(listener.transport, listener.local, listener.sought());
    return found && found->waiting > found->room;
}

/// A bell has been answered: there is room for another, and after the first for all, who come in
/// the order in which they would have stood in the listener's own queue.
void Handoff::answered(std::uint64_t listener) {
    const bool is_first = answering_.insert(listener).second;
    for (const auto &[id, offer] : offers_) {
        if (offer->listener.cookie != listener || !offer->is_waiting)
            continue;
        if (!offer->timer.is_due(Clock::now())) // else those behind it would come first
            ring_again(id, Duration::zero());
        if (!is_first)
            return;
    }
}

void Handoff::ring(Id id) {
    Offer &offer = *offers_.at(id);
    if (bells_.are_unheard()) {
        give_up(offer.listener, confined);
        return;
    }
    offer.is_waiting = is_to_wait(id) || is_full(offer.listener);
    if (offer.is_waiting) {
        ring_again(id, until_there_is_room);
        return;
    }
    // (One that is just being set is known in a moment.)
    if (owner_.has_unseen_filter(offer.listener)) {
        obstructed(id, unseen_filter);
        return;
    }
    switch (const Rung rung = connect_doorbell(offer)) {
    case Rung::yes:
        rings(id);
        return;
    case Rung::no:
        could_not_ring(id, errno);
        return;
    case Rung::heard_by_others:
    case Rung::heard_by_nobody:
        if (is_there(offer.listener))
            obstructed(id, (rung == Rung::heard_by_others ? anothers : bound_to_device).text);
        else // gone or shut down, and we will be told
            ring_again(id, milliseconds(10));
    }
}

void Handoff::could_not_ring(Id id, int error) {
    if (is_about_firewalls(error)) {
        obstructed(id, filtered);
        return;
    }
    if (error == ECONNREFUSED) {
        refused(id);
        return;
    }
    log::warn_once(
        offers_.at(id)->listener.text() +
        ": a peer's connection waits, since no bell can be made: " + strerrordesc_np(error));
    ring_again(id, milliseconds(100));
}

/// From here on the bell is looked after until somebody answers it.
void Handoff::rings(Id id) {
    Offer &offer = *offers_.at(id);
    by_port_[offer.port] = id;
    offer.starved = __atomic_load_n(&page_.starved, __ATOMIC_ACQUIRE);
    scheduler_.watch(offer.doorbell.fd(), EPOLLOUT | EPOLLRDHUP,
                     [this, id](std::uint32_t events) { happened(id, events); });
    if (offer.without_room == Time{})
        offer.without_room = Clock::now();
    offer.looked = {};
    offer.held = {};
    look_after(id);
}

/// Whether the server has found no descriptor free for the connection, which passes; the user is
/// told so.
bool Handoff::say_if_starved(const Offer &offer) const {
    const std::uint32_t starved = __atomic_load_n(&page_.starved, __ATOMIC_ACQUIRE);
    if (starved == offer.starved)
        return false;
    log::warn_once(
        offer.listener.text() +
        ": a peer's connection waits: the server has no descriptor left for it. Raise its "
        "limit of open files (RLIMIT_NOFILE; LimitNOFILE= in a systemd unit)");
    return true;
}

void Handoff::look_after(Id id) {
    offers_.at(id)->timer.set(Clock::now() + BellWay::between_looks, [this, id] { look(id); });
}

/// What becomes of a bell that nobody answers: on its way, in the listener's queue, or accepted.
void Handoff::look(Id id) {
    Offer &offer = *offers_.at(id);
    const Time now = Clock::now();
    tcp_info info{};
    socklen_t length = sizeof info;
    getsockopt(offer.doorbell.fd(), IPPROTO_TCP, TCP_INFO, &info, &length);
    say_if_starved(offer);
    const Endpoint to = bell_address(offer.listener);
    const Transport transport = offer.listener.transport;
    const auto end =
        socket_diag_.who_hears(offer.doorbell.local(), to, interface_of(to), transport);
    const bool is_accepted =
        end && end->inode != 0 &&
        (transport == Transport::tcp ? !end->listens : end->cookie != offer.listener.cookie);
    if (transport == Transport::tcp && info.tcpi_state == TCP_SYN_SENT) {
        if (!end || !end->listens || end->is_half_full())
            offer.without_room = now;
        if (now - offer.without_room >= BellWay::silence_time) {
            give_up(offer.listener, filtered);
            return;
        }
    } else if (transport == Transport::sctp && offer.doorbell.remote().empty()) {
        if (now - offer.without_room >= BellWay::sctp_silence_time) {
            give_up(offer.listener, filtered);
            return;
        }
    } else if (is_accepted) {
        // A look that comes late says nothing: it comes before what has arrived meanwhile is read.
        const Duration since = now - std::exchange(offer.looked, now);
        const Activity activity = owner_.activity();
        if (activity == Activity::stopped)
            offer.held = {};
        else if (since < 2 * BellWay::between_looks)
            offer.held += activity == Activity::runs ? since / 2 : since;
        if (offer.held >= fetch_time) {
            give_up(offer.listener, not_intercepted);
            return;
        }
    }
    look_after(id);
}

/// The listener is shut down, or gone, and we will be told; or a firewall refuses: its errors come
/// at once, or with the kernel's second SYN, so that the silence goes on. (SCTP refuses where the
/// queue is full.)
void Handoff::refused(Id id) {
    Offer &offer = *offers_.at(id);
    const bool is_filtered = offer.listener.transport == Transport::tcp && is_there(offer.listener);
    if (is_filtered) {
        obstructed(id, filtered);
        return;
    }
    offer.without_room = {};
    ring_again(id, milliseconds(10));
}

/// Nothing gets from here to the listener, or only to somebody else's. If that does not pass soon,
/// no peer's connection ever will.
void Handoff::obstructed(Id id, const char *why) {
    Offer &offer = *offers_.at(id);
    const Time now = Clock::now();
    if (offer.obstructed == Time{})
        offer.obstructed = now;
    if (now - offer.obstructed >= obstructed_most)
        give_up(offer.listener, why);
    else
        ring_again(id, obstructed_rest);
}

void Handoff::happened(Id id, std::uint32_t events) {
    Offer &offer = *offers_.at(id);
    if (!(events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP))) {
        offer.without_room = offer.obstructed = {};
        introduce(offer); // connected
        scheduler_.watch(offer.doorbell.fd(), EPOLLRDHUP,
                         [this, id](std::uint32_t later) { happened(id, later); });
        return;
    }
    const int error = offer.doorbell.get(SOL_SOCKET, SO_ERROR, 0);
    const int refusal = refusal_on(offer.doorbell);
    silence(offer);
    if (say_if_starved(offer) || is_short_of_descriptors(refusal))
        ring_again(id, until_there_is_room);
    else if (refusal != 0)
        closed_with(id, refusal);
    else if (is_about_firewalls(error))
        obstructed(id, filtered);
    else if (error == ECONNREFUSED)
        refused(id);
    else
        closed_without_a_word(id);
}

/// By who knows what it is, and could not have the connection.
void Handoff::closed_with(Id id, int refusal) {
    Offer &offer = *offers_.at(id);
    if (may_pass(refusal) && ++offer.unanswered <= unanswered_most)
        ring_again(id, milliseconds(20) * (1 << offer.unanswered));
    else
        give_up(offer.listener, bells_.are_unheard()
                                    ? confined
                                    : std::string(cant_reach_us) + ": " + strerrordesc_np(refusal));
}

/// By who doesn't, unless the listener is shut down or gone, of which we will be told, or had no
/// room for it (net.ipv4.tcp_abort_on_overflow), or a process has ended with the bell in its hand.
void Handoff::closed_without_a_word(Id id) {
    Offer &offer = *offers_.at(id);
    const ServerSocket &listener = offer.listener;
    const auto found = socket_diag_.find(listener.transport, listener.local, listener.sought());
    const bool is_full = found && found->is_half_full();
    const bool may_be_an_end =
        owner_.has_one_ended_since(offer.ends) && ++offer.by_ends <= unanswered_most;
    const bool is_unknown = !is_full && !may_be_an_end && (found || is_there(listener)) &&
                            ++offer.wordless > wordless_most;
    if (is_unknown)
        give_up(listener, not_intercepted);
    else
        ring_again(id, is_full ? until_there_is_room : milliseconds(20));
}

void Handoff::felt(const ServerSocket &listener, const char *why) {
    const std::uint64_t cookie = listener.cookie;
    const auto found = out_of_reach_.find(cookie);
    if (why != nullptr && found == out_of_reach_.end()) {
        give_up(listener, why);
    } else if (why == nullptr && found != out_of_reach_.end() && found->second == filtered) {
        out_of_reach_.erase(found);
        log::over(lost_line(listener, filtered));
        scheduler_.at(Clock::now(), [this, cookie] { owner_.in_reach(cookie); });
    }
}

void Handoff::give_up(const ServerSocket &listener, const std::string &why) {
    const std::uint64_t cookie = listener.cookie;
    log::take_back(lost_line(listener, why)); // of another listener there, before it
    log::once(LogLevel::error, lost_line(listener, why));
    out_of_reach_[cookie] = why;
    if (why == filtered)
        feeler_.feel_again(listener);
    forget(cookie);
    // Not here: it may be a punch's own connection that could not be handed over.
    scheduler_.at(Clock::now(), [this, cookie] { owner_.out_of_reach(cookie); });
}

std::optional<Handoff::Fetched> Handoff::fetch(const Socket &accepted, bool is_blocking) {
    auto found = by_port_.find(accepted.remote().port());
    if (found == by_port_.end())
        return std::nullopt;
    const Id id = found->second;
    Offer &offer = *offers_.at(id);
    const ServerSocket &listener = offer.listener;
    if (!is_other_end(accepted, offer.doorbell, listener.local))
        return std::nullopt;
    const char *what = copy_inherited_options(accepted.fd(), offer.connection.fd());
    if (what == nullptr)
        what = inimitable(accepted.fd(), option_memory_of(accepted.fd()));
    if (what != nullptr)
        give_up(listener, not_to_be_given(what));
    if (what != nullptr || !check_imitable(listener))
        return Fetched{};
    keep_port(offer.connection, listener);
    const int flags = fcntl(offer.connection.fd(), F_GETFL);
    fcntl(offer.connection.fd(), F_SETFL, is_blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
    Fetched fetched{.connection = std::move(offer.connection),
                    .peer = offer.peer,
                    .listener = offer.listener.cookie};
    silence(offer);
    offers_.erase(id);
    answered(listener.cookie);
    return fetched;
}

bool Handoff::has_rung(const Socket &accepted) const {
    synergy_bell said{};
    return recv(accepted.fd(), &said, sizeof said, MSG_PEEK | MSG_DONTWAIT) == sizeof said &&
           synergy_is_bell_of(&page_, &said) != 0;
}

std::vector<std::uint64_t> Handoff::waiting(std::uint64_t listener) const {
    std::vector<std::uint64_t> cookies;
    for (const auto &entry : offers_)
        if (entry.second->listener.cookie == listener)
            cookies.push_back(cookie_of(entry.second->connection.fd()));
    return cookies;
}

std::vector<std::pair<Socket, Endpoint>> Handoff::take_back(std::uint64_t listener) {
    std::vector<std::pair<Socket, Endpoint>> connections;
    for (const auto &entry : offers_)
        if (entry.second->listener.cookie == listener)
            connections.emplace_back(std::move(entry.second->connection), entry.second->peer);
    forget(listener);
    return connections;
}

bool Handoff::has_waiting(std::uint64_t listener, const Endpoint &peer) const {
    return std::any_of(offers_.begin(), offers_.end(), [&](const auto &entry) {
        return entry.second->listener.cookie == listener && entry.second->peer == peer;
    });
}

void Handoff::listens_again(std::uint64_t before, std::uint64_t now) {
    feeler_.listens_again(before, now);
    if (answering_.erase(before) != 0)
        answering_.insert(now);
}

void Handoff::withdraw(std::uint64_t listener) {
    feeler_.withdraw(listener);
    out_of_reach_.erase(listener);
    answering_.erase(listener);
    forget(listener);
}

void Handoff::forget(std::uint64_t listener) {
    for (auto entry = offers_.begin(); entry != offers_.end();) {
        if (entry->second->listener.cookie == listener) {
            silence(*entry->second);
            entry = offers_.erase(entry);
        } else {
            ++entry;
        }
    }
}

} // namespace synergy
