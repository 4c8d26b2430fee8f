#include "keeper/requests.h"

#include "base/log.h"
#include "keeper/status.h"
#include "server/inimitable.h"
#include "server/tcp_keys.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace synergy {

namespace {

constexpr std::size_t sockets_with_keys_max = 256;

synergy_mark mark_of(const ServerSocket &socket) {
    return socket.accepts() ? SYNERGY_LISTENER : SYNERGY_DATAGRAMS;
}

std::uint32_t flags_of(const ServerSocket &socket) {
    std::uint32_t flags = 0;
    if (socket.is_shared)
        flags |= SYNERGY_SHARES;
    if (socket.lets_others_in || !socket.is_prepared)
        flags |= SYNERGY_LETS_OTHERS_IN;
    return flags;
}

/// Whom synergy_to() names; 0, or the errno that it promises.
int read_target(const synergy_request &request, const ServerSocket &socket, Target &target) {
    if (request.hop_limit != SYNERGY_AUTOMATIC_HOPS) {
        const auto hops = HopLimit::from(request.hop_limit);
        if (!hops)
            return EINVAL;
        target.hops = *hops;
    }
    const int family = request.peer.any.sa_family;
    if (family == AF_UNSPEC) {
        if (socket.connected.empty())
            return ENOTCONN;
        target.peer = socket.connected.unmapped();
    } else if (family != AF_INET6 && family != AF_INET) {
        return EAFNOSUPPORT;
    } else {
        target.peer = Endpoint::from(&request.peer.any, sizeof request.peer).unmapped();
        if (target.peer.empty() || target.peer.port() == 0 || target.peer.is_wildcard())
            return EINVAL;
    }
    if (socket.local.is_loopback())
        return EINVAL;
    return reachable(socket, target.peer).empty() ? EAFNOSUPPORT : 0;
}

} // namespace

void Requests::take_over(const Requests &killed) {
    keys_ = killed.keys_;
    said_ = killed.said_;
}

Requests::Reply Requests::answer(const Call &call) {
    Reply reply;
    try {
        if (call.knows_secret)
            processes_.add(call.process);
        switch (call.request.kind) {
        case SYNERGY_OPEN:
        case SYNERGY_PREPARE:
            open(call, reply);
            break;
        case SYNERGY_LISTENS:
            listens(call);
            break;
        case SYNERGY_OPEN_TOWARD:
            open_toward(call, reply);
            break;
        case SYNERGY_CLOSED:
            processes_.closed(call.process, call.request.cookie);
            shut_down(call);
            registry_.closed(call.request.cookie);
            break;
        case SYNERGY_GIVE_WAY:
            registry_.let_errors_come(
                Endpoint::from(&call.request.peer.any, sizeof call.request.peer).port());
            reply.answer.result =
                registry_.give_way(static_cast<std::uint16_t>(call.request.cookie)) ? 0 : ENOENT;
            break;
        case SYNERGY_FETCH:
            fetch(call, reply);
            break;
        case SYNERGY_HERE:
            processes_.add(call.request.process, call.process);
            break;
        case SYNERGY_BIND:
            bind(call, reply);
            break;
        case SYNERGY_BESIDE:
            reply.answer.result = is_kept_for(call) ? 0 : ENOENT;
            break;
        case SYNERGY_MAKE_WAY:
            reply.answer.result =
                registry_.make_way(call.passed.local(),
                                   Endpoint::from(&call.request.peer.any, sizeof call.request.peer))
                    ? 0
                    : ENOENT;
            break;
        case SYNERGY_ADOPT:
            owner_.adopt(call, reply);
            break;
        case SYNERGY_KNOCK:
            reply.goes_on = true;
            break;
        case SYNERGY_TAKE:
            take(call, reply);
            break;
        case SYNERGY_MEET:
            meet(call, reply);
            break;
        case SYNERGY_EXECUTED_WITHOUT:
            executed_without_library(call);
            break;
        case SYNERGY_KEY:
            keep_key(call, reply);
            break;
        case SYNERGY_STATUS:
            if (call.is_trusted)
                status(reply);
            else
                reply.answer.result = EPERM;
            break;
        default:
            reply.answer.result = EINVAL;
        }
    } catch (const std::exception &error) {
        log::error("{}", error.what());
        reply.answer.result = EIO;
    }
    passed_ = 0;
    return reply;
}

/// What a call shows, as it is to be kept: nullopt and an errno if it is nothing for us.
std::optional<ServerSocket> Requests::describe_passed(const Call &call) {
    const std::uint64_t cookie = cookie_of(call.passed.fd());
    passed_ = cookie;
    const auto keys = keys_.find(cookie);
    const ServerSocket *known = registry_.find(cookie);
    const bool is_prepared = call.request.kind == SYNERGY_PREPARE;
    auto socket =
        describe(call.passed.fd(), keys == keys_.end() ? std::vector<OptionValue>{} : keys->second,
                 known != nullptr && !known->is_ready() && !is_prepared ? known : nullptr,
                 is_prepared ? When::before_connecting : When::ever);
    if (!socket)
        return std::nullopt;
    // (An SCTP listener shows the address at which somebody has come last.)
    if (known != nullptr && socket->transport == Transport::sctp)
        socket->local = known->local;
    socket->fd = call.request.fd;
    socket->is_prepared = is_prepared;
    socket->lets_others_in = is_prepared && (call.request.flags & SYNERGY_LETS_OTHERS_IN) != 0;
    socket->is_shared = (call.request.flags & SYNERGY_SHARES) != 0;
    // Sockets beside it would be made in this network.
    if (network_of(call.passed.fd()) != page_->network) {
        errno = EXDEV;
        return std::nullopt;
    }
    return socket;
}

void Requests::open(const Call &call, Reply &reply) {
    auto socket = describe_passed(call);
    if (socket && owner_.become_ready_for(socket->owner, socket->group))
        socket = describe_passed(call); // to another user it may be another thing
    if (!socket) {
        reply.answer.result = errno;
        reply.answer.mark = SYNERGY_UNTOUCHED;
        if (const auto any = errno == EXDEV ? describe(call.passed.fd()) : std::nullopt;
            any && has_declared(registry_.settings(), *any))
            log::error("{}", any->not_punched("it belongs to another network namespace than the "
                                              "process that has it"));
        return;
    }
    const bool is_to_listen =
        call.request.kind == SYNERGY_PREPARE && socket->accepts() && !socket->listens;
    if (socket->transport != Transport::udp && !socket->listens && !is_to_listen) {
        reply.answer.result = EINVAL;
        reply.answer.mark = SYNERGY_UNKNOWN;
        return;
    }
    reply.answer.result = open_described(*socket, call, std::nullopt);
    const ServerSocket *known = registry_.find(socket->cookie);
    reply.answer.mark = known != nullptr ? mark_of(*known) : SYNERGY_UNTOUCHED;
    reply.answer.flags = known != nullptr ? flags_of(*known) : 0;
    if (!is_to_listen || !registry_.has(socket->cookie))
        return;
    reply.goes_on = true;
    reply.afterwards = [this, cookie = socket->cookie](const Socket &passed) {
        registry_.add_later_options(cookie, passed.fd());
    };
}

/// It is as it was just before.
void Requests::listens(const Call &call) {
    const ServerSocket *known = registry_.find(call.request.cookie);
    if (known == nullptr || known->is_ready())
        return;
    ServerSocket socket = *known;
    socket.listens = true;
    // (So that it is said of this one as of any other.)
    if (socket.not_to_be_given != nullptr)
        registry_.forget(socket.cookie);
    static_cast<void>(open_described(socket, call, std::nullopt));
}

/// A client's socket (a resolver's, say) is connected to somebody who is no peer.
bool Requests::is_for_others(const ServerSocket &socket) const {
    if (socket.transport != Transport::udp || socket.connected.empty())
        return false;
    const auto targets = registry_.settings().targets_for(socket.transport, socket.local.port());
    return std::none_of(targets.begin(), targets.end(), [&](const Target &target) {
        return target.peer == socket.connected.unmapped();
    });
}

/// Nothing that is made beside it can be what its own connections would be.
void Requests::refuse_inimitable(const ServerSocket &socket) {
    // One that does not listen yet may be given something else before it does.
    if (!socket.is_ready())
        registry_.forget(socket.cookie);
    else if (registry_.has(socket.cookie))
        handoff_.check_imitable(socket);
    else
        log::error("{}", socket.not_punched(not_to_be_given(socket.not_to_be_given)));
}

/// No bell gets to it.
void Requests::refuse_obstructed(const ServerSocket &socket, const Obstacle &obstacle) {
    // Who says that it listens waits for no answer: it may be closed again by now.
    if (socket.is_ready() && socket_diag_.life(socket.transport, socket.local, socket.sought()) ==
                                 SocketDiag::Life::gone) {
        registry_.has_listened(socket.cookie);
        registry_.closed(socket.cookie);
        return;
    }
    if (socket.is_ready())
        log::once(LogLevel::error, socket.not_punched(obstacle.text));
    registry_.forget(socket.cookie);
}

/// For sockets beside it; or else `duplicate` is what punches leave from. 0, or an errno.
int Requests::make_room(const ServerSocket &socket, const Socket &passed, Socket &duplicate) const {
    // Known once, it shares its port with us, and no more tells by itself that there was room.
    const ServerSocket *known = registry_.find(socket.cookie);
    if (socket.has_room_beside || (known != nullptr && known->has_room_beside)) {
        passed.set(SOL_SOCKET, SO_REUSEPORT, 1);
    } else if (socket.punches_itself()) {
        duplicate = Socket(fcntl(passed.fd(), F_DUPFD_CLOEXEC, 0));
        if (!duplicate)
            return errno;
    }
    return 0;
}

int Requests::open_described(const ServerSocket &socket, const Call &call,
                             const std::optional<Target> &target) {
    if (!target && is_for_others(socket))
        return ENOENT;
    const bool is_punched = target || has_declared(registry_.settings(), socket);
    if (is_punched && socket.not_to_be_given != nullptr) {
        refuse_inimitable(socket);
        return ENOENT;
    }
    const Obstacle *obstacle = is_punched && socket.accepts() ? handoff_.obstacle(socket) : nullptr;
    if (obstacle != nullptr && !obstacle->may_pass) {
        refuse_obstructed(socket, *obstacle);
        return ENOENT;
    }
    // Another user's is refused, and said, once it listens; till then its name must not be taken:
    // it is free again only some time after.
    if (socket.accepts() && !socket.is_ready() && socket.owner != geteuid())
        return ENOENT;
    Socket duplicate;
    if (const int error = make_room(socket, call.passed, duplicate); error != 0)
        return error;
    const bool is_new = !registry_.has(socket.cookie);
    // (A name that was claimed and released is another's to be found by for a moment longer.)
    if (is_new && (target || registry_.may_have_peers(socket)))
        if (const int error = control_.claim(socket.cookie); error != 0)
            return error;
    const int result = target ? registry_.open(socket, *target, std::move(duplicate), obstacle)
                              : registry_.open_all(socket, std::move(duplicate), obstacle);
    // Before the answer: whoever binds the port next, as soon as this server is gone, asks for it.
    if (const ServerSocket *kept = registry_.find(socket.cookie);
        is_new && kept != nullptr && (!kept->is_shared || kept->transport == Transport::tcp))
        control_.claim_port(socket.cookie, static_cast<int>(socket.transport), socket.local.port());
    if (registry_.has(socket.cookie))
        owner_.opened();
    else
        control_.release(socket.cookie);
    return result;
}

void Requests::open_toward(const Call &call, Reply &reply) {
    auto socket = describe_passed(call);
    reply.answer.mark = SYNERGY_UNKNOWN;
    if (!socket) {
        reply.answer.result = errno;
        return;
    }
    Target target;
    reply.answer.result = read_target(call.request, *socket, target);
    if (reply.answer.result != 0)
        return;
    if (socket->transport != Transport::udp && !socket->listens) {
        if (socket->accepts() && !socket->connected.empty()) {
            reply.answer.result = socket->connected.unmapped() == target.peer ? 0 : EISCONN;
            return;
        }
        __atomic_store_n(&page_->asks_for_all, 1, __ATOMIC_RELEASE);
        reply.answer.result = registry_.expect(socket->cookie, target);
        return;
    }
    if (socket->local.port() == 0) {
        // As the first datagram would.
        const Endpoint any = Endpoint::wildcard(socket->local.family(), 0);
        if (::bind(call.passed.fd(), any.data(), any.length()) != 0 ||
            !(socket = describe_passed(call))) {
            reply.answer.result = errno;
            return;
        }
    }
    reply.answer.result = open_described(*socket, call, target);
    // Also after a failure: the punch may be tried again for as long as the socket is open.
    if (registry_.has(socket->cookie))
        reply.answer.mark = mark_of(*socket);
}

/// Of one that is open still. (The options by which its port was shared with us are the server's
/// own again when it has this answer: as long as it listens it must be shared.)
void Requests::shut_down(const Call &call) {
    const ServerSocket *known = call.passed ? registry_.find(cookie_of(call.passed.fd())) : nullptr;
    if (known == nullptr || !known->is_prepared)
        return;
    registry_.shut_down(known->cookie);
}

void Requests::fetch(const Call &call, Reply &reply) {
    auto fetched = call.passed ? handoff_.fetch(call.passed, !(call.request.flags & SOCK_NONBLOCK))
                               : std::nullopt;
    if (!fetched) {
        reply.answer.result = call.passed && handoff_.has_rung(call.passed) ? ESTALE : ENOENT;
        reply.show = call.passed.fd();
        return;
    }
    if (!fetched->connection) {
        reply.answer.result = ECONNABORTED;
        return;
    }
    // (Who has waited too long for it takes nothing more, and the bell rings again.)
    reply.handed_over = [this, cookie = fetched->listener,
                         peer = fetched->peer](bool is_gone, Socket connection) {
        const ServerSocket *listener = registry_.find(cookie);
        if (is_gone)
            registry_.handed_over(cookie, peer);
        else if (listener != nullptr)
            handoff_.offer(std::move(connection), peer, *listener);
    };
    reply.is_proof = true;
    reply.answer.peer = wire_endpoint(fetched->peer);
    reply.hand_over = std::move(fetched->connection);
}

void Requests::bind(const Call &call, Reply &reply) {
    const auto transport = static_cast<std::size_t>(call.request.flags);
    const Endpoint address = Endpoint::from(&call.request.peer.any, sizeof call.request.peer);
    const int fd = call.passed.fd();
    const bool takes_v4 =
        address.family() == AF_INET6 && get_option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 0;
    if (transport >= all_transports.size() || address.empty() ||
        get_option(fd, SOL_SOCKET, bind_to_interface) != 0)
        return;
    if (const ServerSocket *socket =
            registry_.in_the_way(all_transports[transport], address, takes_v4)) {
        reply.answer.result = EADDRINUSE;
        reply.answer.flags = flags_of(*socket);
    }
}

bool Requests::is_kept_for(const Call &call) const {
    const Endpoint address = Endpoint::from(&call.request.peer.any, sizeof call.request.peer);
    struct stat status {};
    const int fd = call.passed.fd();
    return !address.empty() && fstat(fd, &status) == 0 &&
           registry_.parked().is_kept_for(address,
                                          address.family() == AF_INET6 &&
                                              get_option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 0,
                                          status.st_uid);
}

/// Where a key is forgotten, nothing is punched for its socket: the kernel tells that it has one.
void Requests::keep_key(const Call &call, Reply &reply) {
    const std::uint64_t cookie = call.passed ? cookie_of(call.passed.fd()) : 0;
    const auto key = key_value(call.request.key_option, call.request.key, call.request.key_length);
    if (cookie == 0 || !key) {
        reply.answer.result = EINVAL;
        return;
    }
    // A client's sockets have keys as well, one after the other.
    while (keys_.size() >= sockets_with_keys_max && !keys_.contains(cookie)) {
        auto oldest = keys_.begin();
        while (oldest != keys_.end() && registry_.has(oldest->first))
            ++oldest;
        if (oldest == keys_.end()) {
            reply.answer.result = ENOSPC;
            return;
        }
        keys_.erase(oldest);
    }
    if (!add_key(keys_[cookie], *key))
        reply.answer.result = ENOSPC;
    owner_.learned();
}

void Requests::take(const Call &call, Reply &reply) {
    Socket own(call.passed ? fcntl(call.passed.fd(), F_DUPFD_CLOEXEC, 0) : -1);
    const Endpoint peer = Endpoint::from(&call.request.peer.any, sizeof call.request.peer);
    std::optional<GuardStanding> standing;
    if (call.request.key_length == sizeof *standing)
        std::memcpy(&standing.emplace(), call.request.key, sizeof *standing);
    Gift gift(std::move(own), peer, call.request.beginning, standing);
    if (!gift.socket || !registry_.shared_port().take(call.request.cookie, gift))
        reply.answer.result = ENOENT;
}

void Requests::meet(const Call &call, Reply &reply) {
    const ServerSocket *socket =
        call.passed ? registry_.find(cookie_of(call.passed.fd())) : nullptr;
    if (socket == nullptr) {
        reply.answer.result = ENOENT;
        return;
    }
    processes_.add(call.process);
    reply.is_proof = true;
    reply.answer.mark = mark_of(*socket);
    reply.answer.flags = flags_of(*socket);
    reply.show = page_.memory().fd();
}

/// Most programs that a server executes have no use for its sockets, so it is said once of each.
void Requests::executed_without_library(const Call &call) {
    if (call.request.flags == SYNERGY_ENDS) {
        owner_.ends_soon();
        return;
    }
    const std::uint64_t cookie = call.request.cookie;
    const ServerSocket *socket = registry_.find(cookie);
    const bool is_listener = socket != nullptr && socket->accepts();
    if ((cookie != 0 && !is_listener) || !said_.insert(cookie).second)
        return;
    if (cookie == 0)
        log::warn("process {} executes a program with its real and effective user apart: the "
                  "loader gives that no library but those in /etc/ld.so.preload, and there the "
                  "library heeds nothing but {}/synergy/synergy.toml",
                  call.process, SYNERGY_SYSCONFDIR);
    else
        log::warn("{}: process {} executes a program that gets this socket, and has no "
                  "LD_PRELOAD in its environment: what that accepts is no peer's connection "
                  "(`env LD_PRELOAD=...` before the program's name gives it the library)",
                  socket->text(), call.process);
}

void Requests::status(Reply &reply) {
    reply.hand_over =
        in_memory(status_document(registry_.status(), processes_.all(), socket_diag_, traffic_));
    if (!reply.hand_over)
        reply.answer.result = errno;
}

} // namespace synergy
