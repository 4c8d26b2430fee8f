// The server's processes that have spoken to the keeper, and whether they live.
#pragma once

#include "base/scheduler.h"
#include "server/activity.h"
#include "server/call_filters.h"
#include "server/server_socket.h"
#include "wire.h"

#include <functional>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace synergy {

class Processes {
  public:
    /// `ended` is called whenever one of them has ended.
    Processes(Scheduler &scheduler, const synergy_page &page, std::function<void()> ended)
        : scheduler_(scheduler), page_(page), ended_(std::move(ended)) {}
    ~Processes();
    Processes(const Processes &) = delete;
    Processes &operator=(const Processes &) = delete;

    /// This one is of the server; its parent has told, if that is not 0, and it has what that has.
    /// (One that can't be watched, as when no descriptor is left, is
    /// taken to live for ever: then sockets alone tell that all is over.)
    void add(pid_t process, pid_t parent = 0);

    /// Those that a killed keeper has known, as it knew them.
    void take_over(const Processes &killed);

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

    /// Whether one that may have the listener has set a system call filter that the library does
    /// not know of: by an instruction of its own. (Those that accept are alike: of many some are
    /// looked at, others the next time.)
    [[nodiscard]] bool has_unseen_filter(const ServerSocket &listener);

  private:
    Scheduler &scheduler_;
    const synergy_page &page_;
    const std::function<void()> ended_;
    struct Process {
        Socket pidfd;
        std::unordered_set<std::uint64_t> closed; ///< sockets, by cookie
        /// When it, or the first of its parents that is known, spoke: it could, then.
        std::optional<CallFilters> filters;
        std::uint32_t filters_seen; ///< of all processes, by then
    };

    static bool has_ended(const Process &process);
    [[nodiscard]] std::uint32_t filters_seen() const {
        return __atomic_load_n(&page_.filters, __ATOMIC_ACQUIRE);
    }
    [[nodiscard]] bool has_unseen_filter(pid_t process, const Process &known) const;

    std::unordered_map<pid_t, Process> watched_;
    bool is_any_unwatched_ = false;
    pid_t last_ended_ = 0;
    unsigned ends_ = 0;
    std::size_t next_looked_at_ = 0;
};

} // namespace synergy
