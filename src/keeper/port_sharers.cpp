#include "keeper/port_sharers.h"

#include "base/abstract_socket.h"
#include "server/traffic.h"
#include "wire.h"

#include <cstring>
#include <sys/epoll.h>
#include <unistd.h>
#include <utility>

namespace synergy {

namespace {

using std::chrono::seconds;

/// A keeper answers at once, unless it is stopped: a peer does not wait for that.
constexpr Duration patience = seconds(1);

} // namespace

PortSharers::~PortSharers() {
    for (const auto &given : given_)
        scheduler_.unwatch(given.first);
}

void PortSharers::give(Gift gift, std::uint64_t to, const Refused &refused) {
    synergy_address address{};
    synergy_name_of(to, &address);
    Socket connection = connected_to({address.name, address.length}, seconds(1), SOCK_NONBLOCK);
    const auto owner = connection ? peer_credentials(connection) : std::nullopt;
    synergy_request request{};
    request.version = SYNERGY_WIRE_VERSION;
    request.kind = SYNERGY_TAKE;
    request.cookie = to;
    request.peer = wire_endpoint(gift.peer);
    request.beginning = gift.beginning;
    if (gift.standing) {
        static_assert(sizeof *gift.standing <= sizeof request.key);
        request.key_length = sizeof *gift.standing;
        std::memcpy(request.key, &*gift.standing, sizeof *gift.standing);
    }
    const int fd = connection.fd();
    if (!owner || owner->uid != geteuid() ||
        !send_with(connection, &request, sizeof request, gift.socket.fd()) ||
        !scheduler_.watch(fd, EPOLLIN, [this, fd](std::uint32_t) { answered(fd, true); })) {
        refused(std::move(gift));
        return;
    }
    auto &given = given_[fd] =
        std::make_unique<Given>(scheduler_, std::move(gift), std::move(connection), refused);
    given->timer.set(Clock::now() + patience, [this, fd] { answered(fd, false); });
}

/// Or given up: who has not answered by then finds that nobody waits for it.
void PortSharers::answered(int connection, bool is_in_time) {
    scheduler_.unwatch(connection);
    const std::unique_ptr<Given> given = std::move(given_.at(connection));
    given_.erase(connection);
    if (!is_in_time)
        ::shutdown(connection, SHUT_RDWR);
    synergy_answer answer{};
    const bool is_taken =
        ::recv(connection, &answer, sizeof answer, MSG_DONTWAIT) == sizeof answer &&
        answer.version == SYNERGY_WIRE_VERSION && answer.result == 0;
    if (!is_taken)
        given->refused(std::move(given->gift));
    if (given_.empty())
        all_given_();
}

} // namespace synergy
