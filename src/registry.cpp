#include "registry.h"

#include "hop_limit.h"
#include "log.h"
#include "tcp_punch.h"
#include "udp_punch.h"

namespace synergy {

Endpoint reachable(const ServerSocket &socket, const Endpoint &peer) {
    const Endpoint &local = socket.local;
    if (local.is_loopback())
        return {};
    bool is_v6_socket = local.family() == AF_INET6;
    if (peer.family() == AF_INET6)
        return is_v6_socket && !local.is_v4_mapped() ? peer : Endpoint{};
    if (!is_v6_socket)
        return peer;
    bool has_v4 = socket.takes_v4 && (local.is_wildcard() || local.is_v4_mapped());
    return has_v4 ? peer.mapped() : Endpoint{};
}

Registry::Registry(Scheduler &scheduler, const Settings &settings, Handoff &handoff)
    : scheduler_(scheduler), handoff_(handoff),
      context_{.scheduler = scheduler,
               .settings = settings,
               .is_alive = [this](const ServerSocket &socket) { return is_alive(socket); },
               .deliver =
                   [this](Socket connection, const Endpoint &peer, const ServerSocket &server) {
                       handoff_.offer(std::move(connection), peer, server);
                   }} {}

int Registry::open(const ServerSocket &socket, const std::vector<Target> &targets,
                   Socket duplicate) {
    Server &server = servers_[socket.inode];
    server.socket = socket;
    if (!server.duplicate)
        server.duplicate = std::move(duplicate);
    int result = 0;
    auto open_each = [&](const std::vector<Target> &those) {
        for (const Target &target : those)
            if (int error = open_hole(server, target); result == 0)
                result = error;
    };
    open_each(targets);
    if (auto expected = expected_.find(socket.inode); expected != expected_.end()) {
        open_each(expected->second.targets);
        expected_.erase(expected);
    }
    if (server.punches.empty()) {
        servers_.erase(socket.inode);
        return ENOENT;
    }
    return result;
}

int Registry::open_hole(Server &server, const Target &target) {
    const ServerSocket &socket = server.socket;
    Hole hole{.transport = socket.transport,
              .server = socket,
              .peer = reachable(socket, target.peer),
              .hop_limit = choose_hop_limit(target)};
    if (hole.peer.empty())
        return 0;
    Endpoint peer = hole.peer;
    auto present = server.punches.find(peer);
    if (present != server.punches.end() && present->second->hop_limit() == hole.hop_limit)
        return present->second->open();
    log::info("{}: opens, hop limit {}", hole.text(), hole.hop_limit);
    std::unique_ptr<Punch> punch;
    switch (socket.transport) {
    case Transport::tcp:
        punch = std::make_unique<TcpPunch>(context_, std::move(hole));
        break;
    case Transport::udp:
        punch = std::make_unique<UdpPunch>(context_, std::move(hole), server.duplicate.fd());
        break;
    case Transport::sctp:
        return EOPNOTSUPP;
    }
    Punch &opened = *punch;
    server.punches[peer] = std::move(punch);
    return opened.open();
}

void Registry::expect(const ServerSocket &socket, const Target &target) {
    Expected &expected = expected_[socket.inode];
    expected.fd = socket.fd;
    expected.targets.push_back(target);
}

bool Registry::is_alive(const ServerSocket &socket) {
    if (!descriptors_.readable())
        return true;
    auto found = servers_.find(socket.inode);
    if (found == servers_.end())
        return false;
    int now = descriptors_.find(socket.inode, found->second.socket.fd);
    if (now >= 0) {
        found->second.socket.fd = now;
        return true;
    }
    log::debug("{} {} is closed", name(socket.transport), socket.local.text());
    // Not here: the punch that asks is one of those that go.
    scheduler_.at(Clock::now(), [this, inode = socket.inode] { drop(inode); });
    return false;
}

void Registry::drop(std::uint64_t inode) {
    handoff_.withdraw(inode);
    servers_.erase(inode);
}

void Registry::close(int fd) {
    std::erase_if(expected_, [fd](const auto &entry) { return entry.second.fd == fd; });
    for (auto &[inode, server] : servers_) {
        if (server.socket.fd != fd)
            continue;
        int other = descriptors_.readable() ? descriptors_.find(inode, -1, fd) : -1;
        if (other >= 0)
            server.socket.fd = other;
        else
            drop(inode);
        return;
    }
}

bool Registry::give_way() {
    if (!descriptors_.readable())
        return false;
    std::vector<std::uint64_t> gone;
    for (const auto &[inode, server] : servers_)
        if (descriptors_.find(inode, server.socket.fd) < 0)
            gone.push_back(inode);
    for (std::uint64_t inode : gone)
        drop(inode);
    return !gone.empty();
}

} // namespace synergy
