// The server's processes that have spoken to the keeper, and whether they live.
#pragma once

#include "base/scheduler.h"
#include "server/server_socket.h"

#include <functional>
#include <optional>
#include <unordered_map>

namespace synergy {

class Processes {
  public:
    /// `ended` is called whenever one of them has ended.
    Processes(Scheduler &scheduler, std::function<void()> ended)
        : scheduler_(scheduler), ended_(std::move(ended)) {}
    ~Processes();
    Processes(const Processes &) = delete;
    Processes &operator=(const Processes &) = delete;

    /// This one is of the server. (One that can't be watched, as when no descriptor is left, is
    /// taken to live for ever: then sockets alone tell that all is over.)
    void add(pid_t process);

    [[nodiscard]] bool are_gone() const { return watched_.empty() && !is_any_unwatched_; }
    [[nodiscard]] std::size_t count() const { return watched_.size(); }

    /// Whether any of them still has the socket in its descriptor table; nullopt: it can't be told.
    /// Corrects the number that the server has for it.
    std::optional<bool> have(ServerSocket &socket) const;

  private:
    Scheduler &scheduler_;
    const std::function<void()> ended_;
    std::unordered_map<pid_t, Socket> watched_; ///< with a pidfd each
    bool is_any_unwatched_ = false;
};

} // namespace synergy
