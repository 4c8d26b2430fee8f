// What passes between the server's datagram sockets and their peers, told by the server's threads
// and read by the engine's.
#pragma once

#include "base/endpoint.h"
#include "base/scheduler.h"

#include <array>
#include <atomic>
#include <optional>

namespace synergy {

/// Lock-free and of fixed size: a datagram costs a few stores. Two peers that fall on one place
/// overwrite each other, so "none" may be wrong, a time is not (but for a 32-bit collision).
class Traffic {
  public:
    /// Of this process and of all that it forks from now on: a child may receive what its parent's
    /// engine wants to know.
    static Traffic &get();

    enum class Way : std::uint8_t { received, sent };

    /// The server received a datagram from `peer` on its descriptor `fd`, or sent it one.
    void note(Way way, int fd, const Endpoint &peer, Time now);
    /// When that was last; whole seconds.
    [[nodiscard]] std::optional<Time> last(Way way, int fd, const Endpoint &peer) const;

  private:
    static std::uint64_t key(Way way, int fd, const Endpoint &peer);

    std::array<std::atomic<std::uint64_t>, 1024> places_{}; ///< key in the high half, seconds below
};

} // namespace synergy
