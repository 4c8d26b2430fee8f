// Which peers the server has heard on its datagram sockets, told by the server's threads and read
// by the engine's.
#pragma once

#include "endpoint.h"
#include "scheduler.h"

#include <array>
#include <atomic>
#include <optional>

namespace synergy {

/// Lock-free and of fixed size: a datagram costs a few stores. Two peers that fall on one place
/// overwrite each other, so "not heard" may be wrong, "heard" is not (but for a 32-bit collision).
class Heard {
  public:
    /// Of this process; after a fork the child has a copy that nobody reads.
    static Heard &get();

    /// The server received a datagram from `peer` on its descriptor `fd`.
    void note(int fd, const Endpoint &peer, Time now);
    /// When that was last; whole seconds.
    [[nodiscard]] std::optional<Time> last(int fd, const Endpoint &peer) const;

  private:
    static std::uint64_t key(int fd, const Endpoint &peer);

    std::array<std::atomic<std::uint64_t>, 1024> places_{}; ///< key in the high half, seconds below
};

} // namespace synergy
