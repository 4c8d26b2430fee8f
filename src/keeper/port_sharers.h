// Other keepers whose servers share a port with ours, each by a listener of its own: what is given
// to them.
#pragma once

#include "base/scheduler.h"
#include "base/socket.h"
#include "keeper/gift.h"

#include <functional>
#include <memory>
#include <unordered_map>

namespace synergy {

class PortSharers {
  public:
    /// `all_given`: nothing is on its way any more.
    PortSharers(Scheduler &scheduler, std::function<void()> all_given)
        : scheduler_(scheduler), all_given_(std::move(all_given)) {}
    ~PortSharers();
    PortSharers(const PortSharers &) = delete;
    PortSharers &operator=(const PortSharers &) = delete;

    using Refused = std::function<void(Gift)>;
    /// Gives it to the keeper of the listener with this cookie. Where that does not take it,
    /// `refused` gets it back, now or later.
    void give(Gift gift, std::uint64_t to, const Refused &refused);
    [[nodiscard]] bool is_giving() const { return !given_.empty(); }

  private:
    struct Given {
        Given(Scheduler &scheduler, Gift what, Socket way, Refused otherwise)
            : gift(std::move(what)), connection(std::move(way)), refused(std::move(otherwise)),
              timer(scheduler) {}
        Gift gift;
        Socket connection; ///< by which it is given
        Refused refused;
        Timer timer;
    };
    void answered(int connection, bool is_in_time);

    Scheduler &scheduler_;
    const std::function<void()> all_given_;
    std::unordered_map<int, std::unique_ptr<Given>> given_; ///< by descriptor of the connection
};

} // namespace synergy
