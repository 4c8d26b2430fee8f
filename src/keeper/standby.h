// A copy of the keeper's process that sleeps until that is killed, and goes on in its place: a
// server that waits in accept() makes no call in which anything could be noticed.
#pragma once

#include "base/socket.h"

#include <functional>
#include <vector>

namespace synergy {

class Standby {
  public:
    Standby() = default;
    /// The copy is gone afterwards, if it can be.
    ~Standby();
    Standby(const Standby &) = delete;
    Standby &operator=(const Standby &) = delete;

    /// Makes a copy of this moment, in the place of the one that there was. It has none of the
    /// descriptors but `kept` and the standard ones, lest it keep anything of the server's alive.
    /// False, at once; and true, in the copy, once the process that it is a copy of has been
    /// killed. `begun` is called in the copy.
    bool leave(std::vector<int> kept, const std::function<void()> &begun);
    /// The copy ends. Whether there was one.
    bool dismiss();

  private:
    [[nodiscard]] static bool sleep(const Socket &original, const Socket &dismissal,
                                    std::vector<int> kept);

    Socket copy_;      ///< its end (pidfd_open(2))
    Socket dismissal_; ///< what is written here ends it
};

} // namespace synergy
