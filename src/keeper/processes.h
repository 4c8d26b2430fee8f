// The server's processes that have spoken to the keeper, and whether they live.
#pragma once

#include "base/scheduler.h"
#include "server/activity.h"
#include "server/server_socket.h"

#include <functional>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace synergy {

class Processes {
  public:
    /// `ended` is called whenever one of them has ended.
    Processes(Scheduler &scheduler, std::function<void()> ended)
        : scheduler_(scheduler), ended_(std::move(ended)) {}
    ~Processes();
    Processes(const Processes &) = delete;
    Processes &operator=(const Processes &) = delete;

    /// This one is of the server; its parent has told, if that is not 0, and it has what that has.
    /// (One that can't be watched, as when no descriptor is left, is
    /// taken to live for ever: then sockets alone tell that all is over.)
    void add(pid_t process, pid_t parent = 0);

    /// There are some that are not known: sockets alone tell that all is over.
    void may_be_more() { is_any_unwatched_ = true; }

    [[nodiscard]] bool has(pid_t process) const { return watched_.contains(process); }
    [[nodiscard]] bool are_gone() const { return watched_.empty() && !is_any_unwatched_; }

    /// Who was the last to end; 0: none has.
    [[nodiscard]] pid_t last_ended() const { return last_ended_; }
    /// How many ends have been reported.
    [[nodiscard]] unsigned ends() const { return ends_; }
    /// Whether one has ended since there were so many, or has and is not reported yet.
    [[nodiscard]] bool has_one_ended_since(unsigned ends) const;
    /// Whoever has ended is known from here on, without being told of.
    void look();

    /// Those that are watched, in ascending order.
    [[nodiscard]] std::vector<pid_t> all() const;

    /// The process says that it has closed the socket with this cookie.
    void closed(pid_t process, std::uint64_t cookie);
    /// Whether any of them still has the socket, by its descriptor table, or where that can't be
    /// read by what it has said. Corrects the number that the server has for it.
    bool locate(ServerSocket &socket) const;

    /// Of several, the last in the order of its values. One that has ended runs until that is
    /// reported.
    [[nodiscard]] Activity activity() const;

  private:
    Scheduler &scheduler_;
    const std::function<void()> ended_;
    struct Process {
        Socket pidfd;
        std::unordered_set<std::uint64_t> closed; ///< sockets, by cookie
    };

    static bool has_ended(const Process &process);

    std::unordered_map<pid_t, Process> watched_;
    bool is_any_unwatched_ = false;
    pid_t last_ended_ = 0;
    unsigned ends_ = 0;
};

} // namespace synergy
