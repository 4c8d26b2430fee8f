#include "keeper/succession.h"

#include "base/abstract_socket.h"
#include "base/log.h"

#include <cstddef>
#include <cstdio>
#include <sys/epoll.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

namespace synergy {

namespace {

using std::chrono::seconds;

std::string name_of(std::uint64_t inode) {
    return "synergy/" + std::to_string(inode);
}

/// Anybody may bind an abstract name: who is believed is who could harm this process anyway.
bool is_trusted(const Socket &keeper) {
    auto owner = peer_credentials(keeper);
    return owner && (owner->uid == 0 || owner->uid == geteuid());
}

Socket connected_to_keeper(std::uint64_t inode, int flags) {
    return connected_to(name_of(inode), seconds(1), flags);
}

/// What a keeper says first, and all that it says.
std::optional<EngineAddress> greeting(const Socket &keeper) {
    EngineAddress address;
    if (recv(keeper.fd(), &address, sizeof address, 0) != sizeof address)
        return std::nullopt;
    return address;
}

} // namespace

std::optional<EngineAddress> keeper_of(std::uint64_t inode) {
    Socket keeper = connected_to_keeper(inode, 0);
    if (!keeper || !is_trusted(keeper))
        return std::nullopt;
    return greeting(keeper);
}

bool is_kept(std::uint64_t inode) {
    return bool(connected_to_keeper(inode, SOCK_NONBLOCK));
}

Succession::~Succession() {
    while (!places_.empty())
        release(places_.begin()->first);
}

bool Succession::claim(std::uint64_t inode) {
    Place &place = places_.try_emplace(inode, scheduler_).first->second;
    if (place.name)
        return true;
    if (place.keeper)
        return false;
    // Between the two, the keeper may go.
    constexpr int attempts = 10;
    for (int attempt = 0; attempt < attempts; attempt++) {
        if (take(inode, place))
            return true;
        Socket keeper = connected_to_keeper(inode, SOCK_NONBLOCK);
        if (!keeper)
            continue;
        if (!is_trusted(keeper)) {
            log::warn(
                "a process of another user claims to punch for a socket of this one; ignored");
            return true;
        }
        if (stand_by(inode, place, std::move(keeper)))
            return false;
    }
    place.timer.set(Clock::now() + seconds(1), [this, inode] { try_again(inode); });
    return false;
}

void Succession::release(std::uint64_t inode) {
    auto found = places_.find(inode);
    if (found == places_.end())
        return;
    Place &place = found->second;
    if (place.name)
        scheduler_.unwatch(place.name.fd());
    for (const auto &[fd, heir] : place.heirs)
        scheduler_.unwatch(fd);
    forget_keeper(place);
    places_.erase(found);
}

bool Succession::take(std::uint64_t inode, Place &place) {
    Socket name = Socket::open(AF_UNIX, SOCK_SEQPACKET);
    sockaddr_un address;
    socklen_t length = abstract_address(address, name_of(inode));
    constexpr int heirs_at_once = 1024;
    if (!name || libc().bind(name.fd(), reinterpret_cast<sockaddr *>(&address), length) != 0 ||
        libc().listen(name.fd(), heirs_at_once) != 0 ||
        !scheduler_.watch(name.fd(), EPOLLIN, [this, inode](std::uint32_t) { greet(inode); }))
        // Without descriptors, say, it is better to punch twice than not at all.
        return errno != EADDRINUSE;
    place.name = std::move(name);
    return true;
}

bool Succession::stand_by(std::uint64_t inode, Place &place, Socket keeper) {
    if (!scheduler_.watch(keeper.fd(), EPOLLIN,
                          [this, inode](std::uint32_t) { keeper_spoke(inode); }))
        return false;
    place.keeper = std::move(keeper);
    return true;
}

void Succession::forget_keeper(Place &place) {
    if (!place.keeper)
        return;
    scheduler_.unwatch(place.keeper.fd());
    place.keeper.reset();
    if (place.is_stranger)
        Family::get().stranger_gone();
    place.is_stranger = false;
}

void Succession::try_again(std::uint64_t inode) {
    if (claim(inode))
        ours_(inode);
}

void Succession::greet(std::uint64_t inode) {
    Place &place = places_.at(inode);
    Socket heir(libc().accept4(place.name.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!heir || send(heir.fd(), &self_, sizeof self_, MSG_NOSIGNAL) != sizeof self_)
        return;
    int fd = heir.fd();
    bool is_watched = scheduler_.watch(fd, EPOLLIN, [this, inode, fd](std::uint32_t) {
        scheduler_.unwatch(fd);
        places_.at(inode).heirs.erase(fd);
    });
    if (is_watched)
        place.heirs[fd] = std::move(heir);
}

void Succession::keeper_spoke(std::uint64_t inode) {
    Place &place = places_.at(inode);
    if (auto address = greeting(place.keeper)) {
        place.is_stranger = !Family::get().has(*address);
        if (place.is_stranger)
            Family::get().stranger_keeps();
        return;
    }
    forget_keeper(place);
    log::debug("socket {}: its keeper is gone", inode);
    try_again(inode);
}

} // namespace synergy
