// One more SYN, which tells what has come unheard for the one before.
#pragma once

#include "base/scheduler.h"
#include "base/socket.h"

#include <functional>

namespace synergy {

/// A call and a reset look alike to a socket that is deaf to them (both are counted), and a reset
/// must not be answered by a SYN that goes all the way. A SYN from another port, with the hop limit
/// of the punch, meets the same: what comes back for it is heard.
class SynProbe {
  public:
    explicit SynProbe(Scheduler &scheduler) : scheduler_(scheduler), timer_(scheduler) {}
    ~SynProbe() { stop(); }
    SynProbe(const SynProbe &) = delete;
    SynProbe &operator=(const SynProbe &) = delete;

    /// `know` gets the errno that comes back: EHOSTUNREACH is the SYN's own, ETIMEDOUT nothing
    /// within `patience`, 0 a connection. False where it can't be asked.
    bool ask(const Endpoint &from, const Endpoint &peer, int hop_limit, Duration patience,
             std::function<void(int error)> know);
    [[nodiscard]] bool is_asking() const { return bool(socket_); }
    void stop();

  private:
    void answered(int error);

    Scheduler &scheduler_;
    Socket socket_;
    Timer timer_;
    std::function<void(int error)> know_;
};

} // namespace synergy
