#include "handoff/handoff.h"

#include "base/log.h"
#include "handoff/inherited_options.h"
#include "keeper/succession.h"
#include "server/server_descriptors.h"

#include <algorithm>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

namespace synergy {

using std::chrono::milliseconds;
using std::chrono::seconds;

synergy_accepted answer_doorbell(int listener, int fd, int flags, Endpoint &peer) {
    if (!Family::get().is_ringing())
        return SYNERGY_ORDINARY;
    sockaddr_storage storage{};
    socklen_t length = sizeof storage;
    auto *address = reinterpret_cast<sockaddr *>(&storage);
    if (getpeername(fd, address, &length) != 0)
        return SYNERGY_ORDINARY;
    Endpoint from = Endpoint::from(address, length);
    if (from.empty())
        return SYNERGY_ORDINARY;
    Family &family = Family::get();
    auto engine = family.engine_behind(from.port());
    if (!engine && !family.has_stranger())
        return SYNERGY_ORDINARY;
    // A doorbell comes from the very address that it goes to: no client from elsewhere does. What
    // SCTP accepts keeps the wildcard of its listener, at which bells ring by the loopback address.
    length = sizeof storage;
    if (getsockname(fd, address, &length) != 0)
        return SYNERGY_ORDINARY;
    Endpoint to = Endpoint::from(address, length);
    if (!to.same_address(from) && !(to.is_wildcard() && from.is_loopback()))
        return SYNERGY_ORDINARY;
    bool is_strange = !engine;
    if (is_strange)
        engine = keeper_of(socket_inode(listener));
    if (!engine)
        return SYNERGY_ORDINARY;

    Request request;
    if (!is_strange)
        request.secret = family.secret();
    request.kind = Kind::fetch;
    request.doorbell = from;
    Socket connection;
    errno = 0;
    auto answer = ask(*engine, request, is_strange ? fd : -1, &connection);
    if (!answer && (errno == EMFILE || errno == ENFILE)) {
        // No room for it now: the engine rings again.
        libc().close(fd);
        return SYNERGY_NOTHING;
    }
    if (!answer || answer->result == ENOENT)
        return SYNERGY_ORDINARY;
    if (!connection) {
        libc().close(fd);
        return SYNERGY_NOTHING;
    }
    copy_inherited_options(fd, connection.fd());
    if (!(flags & SOCK_NONBLOCK))
        fcntl(connection.fd(), F_SETFL, fcntl(connection.fd(), F_GETFL) & ~O_NONBLOCK);
    // dup3() closes the doorbell and puts the connection there in one step.
    if (dup3(connection.fd(), fd, (flags & SOCK_CLOEXEC) ? O_CLOEXEC : 0) < 0)
        return SYNERGY_ORDINARY;
    peer = answer->peer;
    return SYNERGY_REPLACED;
}

namespace {

/// Whether a socket is in the network namespace that this thread makes its sockets in.
bool is_of_this_network(const Socket &socket) {
    constexpr int so_netns_cookie = 71; // asm-generic/socket.h, Linux 5.14
    auto cookie_of = [](const Socket &whose) {
        std::uint64_t cookie = 0;
        socklen_t length = sizeof cookie;
        return getsockopt(whose.fd(), SOL_SOCKET, so_netns_cookie, &cookie, &length) == 0 ? cookie
                                                                                          : 0;
    };
    Socket own = Socket::open(AF_INET, SOCK_DGRAM);
    return own && cookie_of(own) != 0 && cookie_of(own) == cookie_of(socket);
}

int protocol_of(const ServerSocket &listener) {
    return listener.transport == Transport::sctp ? IPPROTO_SCTP : IPPROTO_TCP;
}

} // namespace

void Handoff::offer(Socket connection, const Endpoint &peer, const ServerSocket &listener) {
    Id id = next_id_++;
    offers_[id] = std::make_unique<Offer>(scheduler_, std::move(connection), peer, listener);
    ring(id);
}

void Handoff::silence(Offer &offer) {
    if (offer.port == 0)
        return;
    by_port_.erase(offer.port);
    family_.silence(offer.port);
    scheduler_.unwatch(offer.doorbell.fd());
    offer.doorbell.reset();
    offer.port = 0;
}

bool Handoff::connect_doorbell(Offer &offer) {
    const Endpoint &listener = offer.listener.local;
    Endpoint to = listener;
    if (listener.is_wildcard()) {
        to = Endpoint::loopback(listener.family(), listener.port());
        if (listener.is_v4_mapped())
            to = Endpoint::loopback(AF_INET, listener.port()).mapped();
    }
    // A port may be taken by a doorbell of another engine of the family, on another address.
    for (int attempt = 0; attempt < 16; attempt++) {
        Socket doorbell = Socket::open(to.family(), SOCK_STREAM, protocol_of(offer.listener));
        if (!doorbell)
            return false;
        // Reset when closed, so that no four-tuple of the server's port rests in TIME_WAIT.
        linger at_once{.l_onoff = 1, .l_linger = 0};
        libc().setsockopt(doorbell.fd(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        // A listener whose queue is full forgets it in the end, without a word: asked every second,
        // the kernel answers with a reset then, and as soon as there is room with the connection.
        doorbell.set(SOL_SOCKET, SO_KEEPALIVE, 1);
        doorbell.set(IPPROTO_TCP, TCP_KEEPIDLE, 1);
        doorbell.set(IPPROTO_TCP, TCP_KEEPINTVL, 1);
        Endpoint from = to.with_port(0);
        if (libc().bind(doorbell.fd(), from.data(), from.length()) != 0)
            return false;
        std::uint16_t port = doorbell.local().port();
        // Marked before it rings: accept() may return before connect() does.
        if (by_port_.contains(port) || !family_.ring(port, slot_))
            continue;
        if (libc().connect(doorbell.fd(), to.data(), to.length()) != 0 && errno != EINPROGRESS) {
            int error = errno;
            family_.silence(port);
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
        // Connected. A listener with TCP_DEFER_ACCEPT stays silent until there is data (tcp(7)).
        if (offer.listener.defer_accept)
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

Answer Handoff::fetch(const Endpoint &from, Socket &hand_over) {
    auto found = by_port_.find(from.port());
    // Another address of this host may use the same port.
    if (found == by_port_.end() || !(offers_.at(found->second)->doorbell.local() == from))
        return {.result = ENOENT, .peer = {}};
    Id id = found->second;
    Offer &offer = *offers_.at(id);
    Answer answer{.result = 0, .peer = offer.peer};
    hand_over = std::move(offer.connection);
    silence(offer);
    offers_.erase(id);
    return answer;
}

Answer Handoff::fetch_by_proof(const Socket &accepted, Socket &hand_over) {
    auto found = by_port_.find(accepted.remote().port());
    if (found != by_port_.end()) {
        const Offer &offer = *offers_.at(found->second);
        // No two connections of one network have the same four-tuple.
        if (is_of_this_network(accepted) &&
            accepted.get(SOL_SOCKET, SO_PROTOCOL, 0) == protocol_of(offer.listener) &&
            accepted.remote() == offer.doorbell.local() &&
            (accepted.local() == offer.doorbell.remote() ||
             accepted.local() == offer.listener.local)) // SCTP's wildcard
            return fetch(accepted.remote(), hand_over);
    }
    return {.result = ENOENT, .peer = {}};
}

void Handoff::withdraw(std::uint64_t listener_inode) {
    for (auto entry = offers_.begin(); entry != offers_.end();) {
        if (entry->second->listener.inode == listener_inode) {
            silence(*entry->second);
            entry = offers_.erase(entry);
        } else {
            ++entry;
        }
    }
}

} // namespace synergy
