#include "keeper/engine.h"

#include "base/log.h"
#include "handoff/handoff.h"
#include "keeper/engine_thread.h"
#include "keeper/registry.h"
#include "server/server_socket.h"
#include "server/traffic.h"

#include <algorithm>
#include <atomic>

namespace synergy::engine {

namespace {

// Written by start(), read-only from then on; never destroyed, since the thread reads it.
const Settings *settings = nullptr;

// Whether any socket of this process has a peer by synergy_to() from before its listen(). Set by
// any thread, never taken back.
std::atomic<bool> has_expected{false};

/// Whether there is a peer for the socket, or may come to be one. `is_servers_port`: by its choice,
/// and not the kernel's, which peers can't come to know.
bool concerns(const ServerSocket &socket, bool is_servers_port) {
    return (is_servers_port && !socket.local.is_loopback() &&
            settings->may_gain(socket.transport, socket.local.port())) ||
           has_declared(*settings, socket);
}

bool is_listening(int fd) {
    return get_option(fd, SOL_SOCKET, SO_ACCEPTCONN) != 0;
}

/// Has the engine's thread open the holes: those of the settings, or the one of `target`.
int request_open(const ServerSocket &socket, const Target &target) {
    Request request;
    request.kind = Kind::open;
    request.socket = socket;
    request.target = target;
    if (socket.accepts()) {
        // So that punching sockets may be bound beside it (socket(7)); see TcpPunch and SctpPunch.
        constexpr int on = 1;
        libc().setsockopt(socket.fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
        libc().setsockopt(socket.fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    }
    int pass = socket.accepts() ? -1 : socket.fd;
    int error = request_of_engine(*settings, request, pass);
    if (error != 0 && target.peer.empty() && error != ENOENT)
        log::error("{} {}: nothing is punched: {}", name(socket.transport), socket.local.text(),
                   strerrordesc_np(error));
    return error;
}

synergy_mark open_described(const ServerSocket &socket, bool is_servers_port) {
    bool is_open =
        (concerns(socket, is_servers_port) || has_expected) && request_open(socket, {}) == 0;
    return is_open ? SYNERGY_WATCHED : SYNERGY_UNTOUCHED;
}

/// A UDP socket that was not seen to be bound.
synergy_mark receives(const ServerSocket &socket, bool is_servers_port) {
    // A client's socket (a resolver's, say) is connected to somebody who is no peer.
    if (!socket.connected.empty()) {
        auto targets = settings->targets_for(socket.transport, socket.local.port());
        if (std::none_of(targets.begin(), targets.end(), [&](const Target &target) {
                return target.peer == socket.connected.unmapped();
            }))
            return SYNERGY_UNTOUCHED;
    }
    return open_described(socket, is_servers_port);
}

/// The peer is the engine's thread's to remember: listen() may come from any thread.
int request_expect(const ServerSocket &socket, const Target &target) {
    Request request;
    request.kind = Kind::expect;
    request.socket = socket;
    request.target = target;
    has_expected = true;
    return request_of_engine(*settings, request, -1);
}

bool request_close(int fd) {
    Request request;
    request.kind = Kind::close;
    request.fd = fd;
    return request_of_running_engine(request) != ESRCH;
}

} // namespace

void start(Settings from) {
    settings = new Settings(std::move(from));
    log::configure(settings->log, settings->log_file);
    for (const Problem &problem : settings->problems)
        log::error("{}", problem.line());
    // Before any fork that is to share them.
    Family::get();
    Traffic::get();
}

int open_toward(int fd, const sockaddr *peer, socklen_t length, int hop_limit) {
    auto socket = describe(fd);
    if (!socket)
        return errno;
    if (hop_limit != -1 && (hop_limit < hop_limit_min || hop_limit > hop_limit_max))
        return EINVAL;
    Target target{.peer = {}, .hops = hop_limit == -1 ? 0 : hop_limit};
    if (peer) {
        if (length < sizeof peer->sa_family)
            return EINVAL;
        if (peer->sa_family != AF_INET6 && peer->sa_family != AF_INET)
            return EAFNOSUPPORT;
        target.peer = Endpoint::from(peer, length).unmapped();
        if (target.peer.empty() || target.peer.port() == 0 || target.peer.is_wildcard())
            return EINVAL;
    } else if (socket->connected.empty()) {
        return ENOTCONN;
    } else {
        target.peer = socket->connected.unmapped();
    }
    if (socket->local.is_loopback())
        return EINVAL;
    if (reachable(*socket, target.peer).empty())
        return EAFNOSUPPORT;
    if (socket->transport != Transport::udp && !is_listening(fd)) {
        if (socket->accepts() && !socket->connected.empty())
            return socket->connected.unmapped() == target.peer ? 0 : EISCONN;
        return request_expect(*socket, target);
    }
    if (socket->local.port() == 0) {
        // As the first datagram would.
        Endpoint any = Endpoint::wildcard(socket->local.family(), 0);
        if (libc().bind(fd, any.data(), any.length()) != 0)
            return errno;
        socket = describe(fd);
    }
    return socket ? request_open(*socket, target) : errno;
}

synergy_mark listening(int fd) {
    auto socket = describe(fd);
    if (!socket || socket->transport == Transport::udp)
        return SYNERGY_UNTOUCHED;
    if (socket->one_to_many && !is_listening(fd))
        return SYNERGY_UNKNOWN; // listen(fd, 0) ends it
    return open_described(*socket, true);
}

synergy_mark bound(int fd, const Endpoint &local) {
    // Told by the port alone where possible, so that other servers don't see a single call more.
    if (local.empty() || (local.port() != 0 && !settings->applies_to(local.port())))
        return SYNERGY_UNTOUCHED;
    auto socket = describe(fd);
    if (!socket)
        return SYNERGY_UNTOUCHED;
    return socket->transport == Transport::udp ? open_described(*socket, local.port() != 0)
                                               : SYNERGY_UNKNOWN;
}

synergy_mark receiving(int fd) {
    auto socket = describe(fd);
    if (!socket && errno == EBADF)
        return SYNERGY_UNKNOWN;
    if (!socket || socket->transport != Transport::udp)
        return SYNERGY_UNTOUCHED;
    return socket->local.port() != 0 ? receives(*socket, false) : SYNERGY_UNKNOWN;
}

synergy_mark waiting(int fd) {
    auto socket = describe(fd);
    if (!socket)
        return errno == EBADF ? SYNERGY_UNKNOWN : SYNERGY_UNTOUCHED;
    if (socket->transport == Transport::udp)
        return socket->local.port() != 0 ? receives(*socket, true) : SYNERGY_UNKNOWN;
    return is_listening(fd) ? open_described(*socket, true) : SYNERGY_UNKNOWN;
}

bool give_way() {
    Request request;
    request.kind = Kind::give_way;
    return request_of_running_engine(request) == 0;
}

synergy_accepted accepted(int listener, int fd, int flags, Endpoint &peer) {
    return answer_doorbell(listener, fd, flags, peer);
}

void received(int fd, const Endpoint &peer) {
    Traffic::get().note(Traffic::Way::received, fd, peer, Clock::now());
}

void sent(int fd, const Endpoint &peer) {
    Traffic::get().note(Traffic::Way::sent, fd, peer, Clock::now());
}

bool closing(int fd) {
    return request_close(fd);
}

} // namespace synergy::engine
