#include "engine.h"

#include "engine_thread.h"
#include "handoff.h"
#include "heard.h"
#include "log.h"
#include "registry.h"
#include "server_socket.h"

#include <algorithm>
#include <atomic>

namespace synergy::engine {

namespace {

// Written by start(), read-only from then on; never destroyed, since the thread reads it.
const Settings *settings = nullptr;

// Whether any socket of this process has a peer by synergy_to() from before its listen(). Set by
// any thread, never taken back.
std::atomic<bool> has_expected{false};

bool has_target(const ServerSocket &socket) {
    auto targets = settings->targets_for(socket.transport, socket.local.port());
    return std::any_of(targets.begin(), targets.end(), [&](const Target &target) {
        return !reachable(socket, target.peer).empty();
    });
}

bool is_listening(int fd) {
    int value = 0;
    socklen_t length = sizeof value;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) == 0 && value != 0;
}

/// Has the engine's thread open the holes: those of the settings, or the one of `target`.
int request_open(const ServerSocket &socket, const Target &target) {
    Request request;
    request.kind = Kind::open;
    request.socket = socket;
    request.target = target;
    if (socket.transport == Transport::tcp) {
        // So that punching sockets may be bound beside it (socket(7)); see TcpPunch.
        constexpr int on = 1;
        libc().setsockopt(socket.fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
        libc().setsockopt(socket.fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    }
    int pass = socket.transport == Transport::udp ? socket.fd : -1;
    int error = request_of_engine(*settings, request, pass);
    if (error != 0 && target.peer.empty() && error != ENOENT)
        log::error("{} {}: nothing is punched: {}", name(socket.transport), socket.local.text(),
                   strerrordesc_np(error));
    return error;
}

synergy_mark open_described(const ServerSocket &socket) {
    bool is_open = (has_target(socket) || has_expected) && request_open(socket, {}) == 0;
    return is_open ? SYNERGY_WATCHED : SYNERGY_UNTOUCHED;
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
    Heard::get();
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
    if (socket->transport == Transport::tcp && !is_listening(fd)) {
        if (!socket->connected.empty())
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
    if (!socket || socket->transport != Transport::tcp)
        return SYNERGY_UNTOUCHED;
    return open_described(*socket);
}

synergy_mark bound(int fd, const Endpoint &local) {
    // Told by the port alone where possible, so that other servers don't see a single call more.
    if (local.empty() || (local.port() != 0 && !settings->applies_to(local.port())))
        return SYNERGY_UNTOUCHED;
    auto socket = describe(fd);
    if (!socket)
        return SYNERGY_UNTOUCHED;
    return socket->transport == Transport::udp ? open_described(*socket) : SYNERGY_UNKNOWN;
}

synergy_mark receiving(int fd) {
    auto socket = describe(fd);
    if (!socket && errno == EBADF)
        return SYNERGY_UNKNOWN;
    if (!socket || socket->transport != Transport::udp)
        return SYNERGY_UNTOUCHED;
    if (socket->local.port() == 0)
        return SYNERGY_UNKNOWN;
    // A client's socket (a resolver's, say) is connected to somebody who is no peer.
    if (!socket->connected.empty()) {
        auto targets = settings->targets_for(socket->transport, socket->local.port());
        if (std::none_of(targets.begin(), targets.end(), [&](const Target &target) {
                return target.peer == socket->connected.unmapped();
            }))
            return SYNERGY_UNTOUCHED;
    }
    return open_described(*socket);
}

bool give_way() {
    Request request;
    request.kind = Kind::give_way;
    return request_of_running_engine(request) == 0;
}

synergy_accepted accepted(int fd, int flags, Endpoint &peer) {
    return answer_doorbell(fd, flags, peer);
}

void received(int fd, const Endpoint &peer) {
    Heard::get().note(fd, peer, Clock::now());
}

bool closing(int fd) {
    return request_close(fd);
}

} // namespace synergy::engine
