#include "handoff/handoff.h"

#include "base/log.h"
#include "handoff/inherited_options.h"

#include <algorithm>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

namespace synergy {

using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

int protocol_of(const ServerSocket &listener) {
    return listener.transport == Transport::sctp ? IPPROTO_SCTP : IPPROTO_TCP;
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
    const Endpoint any = v6.with_port(0);
    const Socket probe = Socket::open(AF_INET6, SOCK_DGRAM);
    const bool has_v6 = !listener.takes_v4 || ::bind(probe.fd(), any.data(), any.length()) == 0;
    return has_v6 ? v6 : v4.mapped();
}

} // namespace

/// A bell that another's listener heard would hand it the peer's connection.
Handoff::Heard Handoff::would_hear(const ServerSocket &listener, const Endpoint &from,
                                   const Endpoint &to) const {
    if (listener.transport != Transport::tcp)
        return Heard::by_the_server; // of SCTP the kernel does not say it
    const auto found = socket_diag_.who_hears(from, to, if_nametoindex("lo"));
    if (found)
        return is_ours_(found->cookie) ? Heard::by_the_server : Heard::by_others;
    return errno == ENOENT ? Heard::by_nobody : Heard::by_the_server;
}

bool Handoff::can_ring(const ServerSocket &listener) const {
    const Endpoint to = bell_address(listener);
    return would_hear(listener, to.with_port(1), to) != Heard::by_nobody;
}

void Handoff::offer(Socket connection, const Endpoint &peer, const ServerSocket &listener) {
    Id id = next_id_++;
    offers_[id] = std::make_unique<Offer>(scheduler_, std::move(connection), peer, listener);
    ring(id);
}

void Handoff::silence(Offer &offer) {
    if (offer.port == 0)
        return;
    by_port_.erase(offer.port);
    bells_.silence(offer.port);
    scheduler_.unwatch(offer.doorbell.fd());
    offer.doorbell.reset();
    offer.port = 0;
}

bool Handoff::connect_doorbell(Offer &offer) {
    const Endpoint to = bell_address(offer.listener);
    // A port may be taken by another doorbell, on another address; and from what port it rings says
    // who hears it, where several listeners share theirs.
    constexpr int attempts = 64;
    for (int attempt = 0; attempt < attempts; attempt++) {
        Socket doorbell = Socket::open(to.family(), SOCK_STREAM, protocol_of(offer.listener));
        if (!doorbell)
            return false;
        // Reset when closed, so that no four-tuple of the server's port rests in TIME_WAIT.
        linger at_once{.l_onoff = 1, .l_linger = 0};
        ::setsockopt(doorbell.fd(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        // A listener whose queue is full forgets it in the end, without a word: asked every second,
        // the kernel answers with a reset then, and as soon as there is room with the connection.
        doorbell.set(SOL_SOCKET, SO_KEEPALIVE, 1);
        doorbell.set(IPPROTO_TCP, TCP_KEEPIDLE, 1);
        doorbell.set(IPPROTO_TCP, TCP_KEEPINTVL, 1);
        Endpoint from = to.with_port(0);
        if (::bind(doorbell.fd(), from.data(), from.length()) != 0)
            return false;
        std::uint16_t port = doorbell.local().port();
        // Marked before it rings: accept() may return before connect() does.
        if (by_port_.contains(port) ||
            would_hear(offer.listener, doorbell.local(), to) == Heard::by_others)
            continue;
        bells_.ring(port);
        if (::connect(doorbell.fd(), to.data(), to.length()) != 0 && errno != EINPROGRESS) {
            int error = errno;
            bells_.silence(port);
            errno = error;
            return false;
        }
        offer.doorbell = std::move(doorbell);
        offer.port = port;
        return true;
    }
    errno = EADDRINUSE;
    return false;
}

void Handoff::ring(Id id) {
    Offer &offer = *offers_.at(id);
    if (!connect_doorbell(offer)) {
        if (++offer.unanswered % 100 == 1)
            log::warn("connection from {}: can't ring at {}: {}", offer.peer.text(),
                      offer.listener.local.text(), strerrordesc_np(errno));
        offer.timer.set(Clock::now() + milliseconds(100), [this, id] { ring(id); });
        return;
    }
    by_port_[offer.port] = id;
    scheduler_.watch(offer.doorbell.fd(), EPOLLOUT | EPOLLRDHUP,
                     [this, id](std::uint32_t events) { happened(id, events); });
}

void Handoff::happened(Id id, std::uint32_t events) {
    Offer &offer = *offers_.at(id);
    if (!(events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP))) {
        // Connected. A listener with TCP_DEFER_ACCEPT stays silent until there is data (tcp(7)),
        // and may have been given that after listen(). Nobody reads it: the bell is not what is
        // served.
        if (offer.listener.transport == Transport::tcp)
            send(offer.doorbell.fd(), "\n", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        scheduler_.watch(offer.doorbell.fd(), EPOLLRDHUP,
                         [this, id](std::uint32_t later) { happened(id, later); });
        return;
    }
    // Refused: the listener is shut down, or gone, and we will be told.
    bool refused = offer.doorbell.get(SOL_SOCKET, SO_ERROR, 0) == ECONNREFUSED;
    silence(offer);
    constexpr unsigned patience = 8;
    if (!refused && ++offer.unanswered > patience) {
        log::warn("connection from {}: {} was accepted by a call that can't be intercepted "
                  "(io_uring, or a program that doesn't use libc); the connection is given up",
                  offer.peer.text(), offer.listener.local.text());
        offers_.erase(id);
        return;
    }
    Duration delay =
        refused ? Duration(milliseconds(10)) : milliseconds(20) * (1 << offer.unanswered);
    offer.timer.set(Clock::now() + delay, [this, id] { ring(id); });
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
    copy_inherited_options(accepted.fd(), offer.connection.fd());
    const int flags = fcntl(offer.connection.fd(), F_GETFL);
    fcntl(offer.connection.fd(), F_SETFL, is_blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
    Fetched fetched{.connection = std::move(offer.connection), .peer = offer.peer};
    silence(offer);
    offers_.erase(id);
    return fetched;
}

void Handoff::withdraw(std::uint64_t listener) {
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
