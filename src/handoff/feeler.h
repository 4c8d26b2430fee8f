// Whether bells come through a firewall on this host, found out before the first one rings.
#pragma once

#include "base/scheduler.h"
#include "handoff/bell_way.h"

#include <memory>
#include <unordered_map>

namespace synergy {

class Feeler {
  public:
    /// `felt`: why none comes through to this listener; nullptr: they do.
    Feeler(Scheduler &scheduler, SocketDiag &socket_diag, BellWay &way,
           std::function<void(const ServerSocket &listener, const char *why)> felt)
        : scheduler_(scheduler), socket_diag_(socket_diag), way_(way), felt_(std::move(felt)) {}

    /// By half a connection, of which the server learns nothing; once for each listener, and until
    /// one comes through if none does. `listener` is there until it is withdrawn. (SCTP has no half
    /// connection that shows: by a whole one to a listener of our own at the same address, to which
    /// a rule for the server's port does not apply.)
    void feel(const ServerSocket &listener);
    /// None has come through, as others have found out.
    void feel_again(const ServerSocket &listener);
    /// What was felt of the one holds for the other.
    void listens_again(std::uint64_t before, std::uint64_t now);
    void withdraw(std::uint64_t listener) { knocks_.erase(listener); }

  private:
    /// A SYN like a bell's, by a socket that is deaf to the answer: only that there was one is
    /// seen.
    struct Knock {
        Knock(Scheduler &scheduler, const ServerSocket &at) : listener(at), timer(scheduler) {}
        const ServerSocket &listener;
        Socket socket;
        Socket own;              ///< SCTP: the listener that stands for the server's
        bool was_silent = false; ///< SCTP: it was not reached
        Time without_room{};     ///< as an offer's
        Timer timer;
    };

    Knock &knock_for(const ServerSocket &listener);
    /// False: it can't be felt.
    bool begin(Knock &knock);
    void begin_later(Knock &knock);
    /// False: it can't be.
    [[nodiscard]] bool knock_at(Knock &knock, const Endpoint &to);
    void look_whether_answered(Knock &knock);
    static void take_back(Knock &knock, const Endpoint &to);
    /// The same for SCTP.
    [[nodiscard]] bool begin_at_own(Knock &knock, const Endpoint &to);
    void look_whether_own_answers(Knock &knock);

    Scheduler &scheduler_;
    SocketDiag &socket_diag_;
    BellWay &way_;
    const std::function<void(const ServerSocket &listener, const char *why)> felt_;
    std::unordered_map<std::uint64_t, std::unique_ptr<Knock>> knocks_; ///< by listener's cookie
};

} // namespace synergy
