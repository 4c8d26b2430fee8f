#include "handoff/handoff.h"

#include "base/log.h"
#include "server/inherited_options.h"

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace synergy {

using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

int protocol_of(const ServerSocket &listener) {
    return listener.transport == Transport::sctp ? IPPROTO_SCTP : IPPROTO_TCP;
}

bool can_be_bound(const Endpoint &address) {
    const Socket probe = Socket::open(address.family(), SOCK_DGRAM);
    const Endpoint any = address.with_port(0);
    return !probe || ::bind(probe.fd(), any.data(), any.length()) == 0 || errno != EADDRNOTAVAIL;
}

/// Where a bell reaches the listener from this host.
Endpoint bell_address(const ServerSocket &listener) {
    const Endpoint &local = listener.local;
    if (!local.is_wildcard())
        return local;
    const Endpoint v4 = Endpoint::loopback(AF_INET, local.port());
    if (local.family() == AF_INET)
        return v4;
    if (local.is_v4_mapped())
        return v4.mapped();
    const Endpoint v6 = Endpoint::loopback(AF_INET6, local.port());
    // Containers often have no IPv6 on their loopback interface.
    return !listener.takes_v4 || can_be_bound(v6) ? v6 : v4.mapped();
}

/// By which interface a bell comes in. To an IPv6 address it comes by the one that has the address,
/// though it goes the way of the loopback interface.
unsigned interface_of(const Endpoint &to) {
    unsigned found = if_nametoindex("lo");
    ifaddrs *all = nullptr;
    if (to.family() != AF_INET6 || to.is_v4_mapped() || to.is_loopback() || getifaddrs(&all) != 0)
        return found;
    for (const ifaddrs *each = all; each != nullptr; each = each->ifa_next)
        if (each->ifa_addr != nullptr && each->ifa_addr->sa_family == AF_INET6 &&
            Endpoint::from(each->ifa_addr, sizeof(sockaddr_in6)).same_address(to))
            found = if_nametoindex(each->ifa_name);
    freeifaddrs(all);
    return found;
}

/// True where it can't be told.
bool is_loopback_up() {
    const Socket any = Socket::open(AF_UNIX, SOCK_DGRAM);
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    return ioctl(any.fd(), SIOCGIFFLAGS, &request) != 0 || (request.ifr_flags & IFF_UP) != 0;
}

constexpr const char *bound_to_device = "no connection of this host's own reaches this listener, "
                                        "as where it is bound to a device";
constexpr const char *anothers = "this host's own connections to its address reach another "
                                 "program's listener";
constexpr const char *filtered = "no connection from this host reaches it: does a firewall forbid "
                                 "the loopback interface?";
constexpr const char *not_intercepted =
    "connections were accepted by a call that can't be intercepted (io_uring, or a program that "
    "doesn't use libc, or one without the library)";

/// Where several listeners share a port, it depends on the port that a bell comes from which of
/// them hears it: by so many one is found that the right one hears.
constexpr int ports_tried = 64;

/// A firewall that lets nothing pass is not silent for a moment only.
constexpr Duration silence_time = seconds(2);
constexpr Duration between_looks = milliseconds(200);
/// An accept() of ours fetches at once.
constexpr Duration fetch_time = milliseconds(600);
constexpr unsigned kept_most = 2;
constexpr unsigned refused_most = 4;
constexpr unsigned unanswered_most = 8;

void reset(const Socket &connection) {
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(connection.fd(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

bool is_about_firewalls(int error) {
    return error == EPERM || error == EACCES || error == ENETUNREACH || error == EHOSTUNREACH;
}

} // namespace

Handoff::Offer::~Offer() {
    if (connection)
        reset(connection);
}

/// A bell that another's listener heard would hand it the peer's connection.
Handoff::Heard Handoff::would_hear(const ServerSocket &listener, const Endpoint &from,
                                   const Endpoint &to) const {
    if (listener.transport != Transport::tcp)
        return Heard::by_the_server; // of SCTP the kernel does not say it
    const auto found = socket_diag_.who_hears(from, to, interface_of(to));
    if (found)
        return found->cookie == listener.cookie || owner_.is_ours(found->cookie)
                   ? Heard::by_the_server
                   : Heard::by_others;
    return errno == ENOENT ? Heard::by_nobody : Heard::by_the_server;
}

const char *Handoff::obstacle(const ServerSocket &listener) const {
    if (!is_loopback_up())
        return "the loopback interface is down";
    const Endpoint to = bell_address(listener);
    if (listener.local.is_wildcard() && !can_be_bound(to))
        return "this host has no loopback address of its family";
    Heard heard{};
    for (std::uint16_t port = 1; port <= ports_tried; port++) {
        heard = would_hear(listener, to.with_port(port), to);
        if (heard == Heard::by_the_server)
            return nullptr;
    }
    // Before listen() nobody hears it, wherever it is bound to.
    if (heard == Heard::by_nobody && !listener.listens && !listener.has_device)
        return nullptr;
    return heard == Heard::by_nobody ? bound_to_device : anothers;
}

bool Handoff::check_imitable(const ServerSocket &listener) {
    if (is_out_of_reach(listener.cookie))
        return false;
    const char *what = listener.not_to_be_given;
    if (what == nullptr)
        if (const auto found =
                socket_diag_.find(listener.transport, listener.local, listener.cookie))
            what = found->option_memory == listener.option_memory ? nullptr : what_takes_memory;
    if (what != nullptr)
        give_up(listener, not_to_be_given(what));
    return what == nullptr;
}

void Handoff::offer(Socket connection, const Endpoint &peer, const ServerSocket &listener) {
    auto made = std::make_unique<Offer>(scheduler_, std::move(connection), peer, listener);
    if (!check_imitable(listener))
        return;
    const Id id = next_id_++;
    offers_[id] = std::move(made);
    ring(id);
}

void Handoff::silence(Offer &offer) {
    if (offer.port == 0)
        return;
    offer.timer.cancel();
    by_port_.erase(offer.port);
    bells_.silence(offer.port);
    scheduler_.unwatch(offer.doorbell.fd());
    offer.doorbell.reset();
    offer.port = 0;
}

/// `no`: errno says why.
Handoff::Rung Handoff::connect_doorbell(Offer &offer) {
    const Endpoint to = bell_address(offer.listener);
    Rung result = Rung::no;
    for (int attempt = 0; attempt < ports_tried; attempt++) {
        Socket doorbell = Socket::open(to.family(), SOCK_STREAM, protocol_of(offer.listener));
        if (!doorbell)
            return Rung::no;
        // Reset when closed, so that no four-tuple of the server's port rests in TIME_WAIT.
        reset(doorbell);
        // A listener whose queue is full forgets it in the end, without a word: asked every second,
        // the kernel answers with a reset then, and as soon as there is room with the connection.
        doorbell.set(SOL_SOCKET, SO_KEEPALIVE, 1);
        doorbell.set(IPPROTO_TCP, TCP_KEEPIDLE, 1);
        doorbell.set(IPPROTO_TCP, TCP_KEEPINTVL, 1);
        // A listener may ask for a least hop limit (GTSM, RFC 5082), of 255 at most.
        doorbell.set(IPPROTO_IP, IP_TTL, 255);
        if (to.family() == AF_INET6)
            doorbell.set(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 255);
        // A key may be for everybody.
        for (const OptionValue &value : offer.listener.chosen)
            if (is_key(value))
                ::setsockopt(doorbell.fd(), value.level, value.name, value.bytes.data(),
                             value.length);
        Endpoint from = to.with_port(0);
        if (::bind(doorbell.fd(), from.data(), from.length()) != 0)
            return Rung::no;
        const std::uint16_t port = doorbell.local().port();
        // A port may be taken by another doorbell, on another address.
        if (by_port_.contains(port)) {
            errno = EADDRINUSE;
            continue;
        }
        const Heard heard = would_hear(offer.listener, doorbell.local(), to);
        if (heard != Heard::by_the_server) {
            result = heard == Heard::by_others ? Rung::heard_by_others : Rung::heard_by_nobody;
            continue;
        }
        // Marked before it rings: accept() may return before connect() does.
        bells_.ring(port);
        if (::connect(doorbell.fd(), to.data(), to.length()) != 0 && errno != EINPROGRESS) {
            const int error = errno;
            bells_.silence(port);
            errno = error;
            return Rung::no;
        }
        offer.doorbell = std::move(doorbell);
        offer.port = port;
        return Rung::yes;
    }
    return result;
}

/// Whether the listener is known to be there and to take connections.
bool Handoff::is_there(const ServerSocket &listener) const {
    return socket_diag_.life(listener.transport, listener.local, listener.cookie) ==
           SocketDiag::Life::lives;
}

void Handoff::ring_again(Id id, Duration delay) {
    offers_.at(id)->timer.set(Clock::now() + delay, [this, id] { ring(id); });
}

void Handoff::ring(Id id) {
    Offer &offer = *offers_.at(id);
    const Rung rung = connect_doorbell(offer);
    if (rung == Rung::no) {
        const int error = errno;
        if (is_about_firewalls(error)) {
            give_up(offer.listener, filtered);
            return;
        }
        if (++offer.unanswered % 100 == 1)
            log::warn("connection from {}: can't ring at {}: {}", offer.peer.text(),
                      offer.listener.local.text(), strerrordesc_np(error));
        ring_again(id, milliseconds(100));
        return;
    }
    if (rung != Rung::yes) {
        if (is_there(offer.listener))
            give_up(offer.listener, rung == Rung::heard_by_others ? anothers : bound_to_device);
        else // gone or shut down, and we will be told
            ring_again(id, milliseconds(10));
        return;
    }
    by_port_[offer.port] = id;
    scheduler_.watch(offer.doorbell.fd(), EPOLLOUT | EPOLLRDHUP,
                     [this, id](std::uint32_t events) { happened(id, events); });
    if (offer.listener.transport == Transport::tcp) {
        if (offer.without_room == Time{})
            offer.without_room = Clock::now();
        offer.accepted_at = {};
        look_after(id);
    }
}

void Handoff::look_after(Id id) {
    offers_.at(id)->timer.set(Clock::now() + between_looks, [this, id] { look(id); });
}

/// What becomes of a bell that nobody answers: on its way, in the listener's queue, or accepted.
void Handoff::look(Id id) {
    Offer &offer = *offers_.at(id);
    const Time now = Clock::now();
    tcp_info info{};
    socklen_t length = sizeof info;
    getsockopt(offer.doorbell.fd(), IPPROTO_TCP, TCP_INFO, &info, &length);
    const Endpoint to = bell_address(offer.listener);
    const auto end = socket_diag_.who_hears(offer.doorbell.local(), to, interface_of(to));
    if (info.tcpi_state == TCP_SYN_SENT) {
        // Half full is too full: between two looks it may have had no room.
        if (!end || !end->listens || end->waiting * 2 > end->room)
            offer.without_room = now;
        if (now - offer.without_room >= silence_time) {
            give_up(offer.listener, filtered);
            return;
        }
    } else if (end && !end->listens && end->inode != 0) {
        if (offer.accepted_at == Time{})
            offer.accepted_at = now;
        if (now - offer.accepted_at >= fetch_time) {
            if (++offer.kept >= kept_most) {
                give_up(offer.listener, not_intercepted);
                return;
            }
            silence(offer);
            ring(id);
            return;
        }
    }
    look_after(id);
}

void Handoff::happened(Id id, std::uint32_t events) {
    Offer &offer = *offers_.at(id);
    if (!(events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP))) {
        offer.without_room = {};
        // Connected. A listener with TCP_DEFER_ACCEPT stays silent until there is data (tcp(7)),
        // and may have been given that after listen(). Nobody reads it: the bell is not what is
        // served.
        if (offer.listener.transport == Transport::tcp)
            send(offer.doorbell.fd(), "\n", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        scheduler_.watch(offer.doorbell.fd(), EPOLLRDHUP,
                         [this, id](std::uint32_t later) { happened(id, later); });
        return;
    }
    const int error = offer.doorbell.get(SOL_SOCKET, SO_ERROR, 0);
    silence(offer);
    if (is_about_firewalls(error)) {
        give_up(offer.listener, filtered);
        return;
    }
    if (error == ECONNREFUSED) {
        // The listener is shut down, or gone, and we will be told; or a firewall refuses: its
        // errors come at once, or with the kernel's second SYN, so that the silence goes on. (SCTP
        // refuses where the queue is full.)
        const bool is_filtered =
            offer.listener.transport == Transport::tcp && is_there(offer.listener);
        if (is_filtered && ++offer.refused >= refused_most) {
            give_up(offer.listener, filtered);
            return;
        }
        if (!is_filtered)
            offer.without_room = {};
        ring_again(id, milliseconds(10));
        return;
    }
    if (++offer.unanswered > unanswered_most)
        give_up(offer.listener, not_intercepted);
    else
        ring_again(id, milliseconds(20) * (1 << offer.unanswered));
}

void Handoff::give_up(const ServerSocket &listener, const std::string &why) {
    const std::uint64_t cookie = listener.cookie;
    log::error("{} {}: nothing is punched any more: {}", name(listener.transport),
               listener.local.text(), why);
    out_of_reach_[cookie] = why;
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
    // No two connections of one network have the same four-tuple. Another address of this host may
    // use the same port.
    const bool is_its_end = network_of(accepted.fd()) == network_of(offer.doorbell.fd()) &&
                            accepted.get(SOL_SOCKET, SO_PROTOCOL, 0) ==
                                offer.doorbell.get(SOL_SOCKET, SO_PROTOCOL, -1) &&
                            accepted.remote() == offer.doorbell.local() &&
                            (accepted.local() == offer.doorbell.remote() ||
                             accepted.local() == offer.listener.local); // SCTP's wildcard
    if (!is_its_end)
        return std::nullopt;
    const ServerSocket listener = offer.listener;
    const char *what = copy_inherited_options(accepted.fd(), offer.connection.fd());
    if (what == nullptr)
        what = inimitable(accepted.fd(), accepted.fd());
    if (what != nullptr)
        give_up(listener, not_to_be_given(what));
    if (what != nullptr || !check_imitable(listener))
        return Fetched{};
    const int flags = fcntl(offer.connection.fd(), F_GETFL);
    fcntl(offer.connection.fd(), F_SETFL, is_blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
    Fetched fetched{.connection = std::move(offer.connection),
                    .peer = offer.peer,
                    .listener = offer.listener.cookie};
    silence(offer);
    offers_.erase(id);
    return fetched;
}

bool Handoff::has_waiting(std::uint64_t listener, const Endpoint &peer) const {
    return std::any_of(offers_.begin(), offers_.end(), [&](const auto &entry) {
        return entry.second->listener.cookie == listener && entry.second->peer == peer;
    });
}

void Handoff::listens_again(std::uint64_t before, const ServerSocket &now) {
    for (auto &entry : offers_)
        if (entry.second->listener.cookie == before)
            entry.second->listener = now;
}

void Handoff::withdraw(std::uint64_t listener) {
    out_of_reach_.erase(listener);
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
