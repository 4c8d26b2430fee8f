// Which of the processes that have a server's socket keeps its holes. A server forks, goes to the
// background, dies, or starts a new program with its listeners: one process punches at a time, and
// when it ends, or closes the socket, another that has it goes on.
//
// Whoever binds the abstract Unix name of the socket's inode is its keeper: the kernel gives that
// name to one process, and takes it back when that ends however it does. The others stay connected
// to it, and so learn at once that it is free again.
#pragma once

#include "base/scheduler.h"
#include "keeper/control.h"

#include <functional>
#include <optional>
#include <unordered_map>

namespace synergy {

/// The engine that keeps the holes of this socket, if any process does; one of another user's is
/// none (but root's is). For any thread; takes no lock.
std::optional<EngineAddress> keeper_of(std::uint64_t inode);
/// Whether any process does.
bool is_kept(std::uint64_t inode);

/// The engine's side.
class Succession {
  public:
    /// `self` is told to whoever asks for the keeper; `ours` is called when a socket's turn has
    /// come to this process, never from within claim().
    Succession(Scheduler &scheduler, const EngineAddress &self,
               std::function<void(std::uint64_t inode)> ours)
        : scheduler_(scheduler), self_(self), ours_(std::move(ours)) {}
    ~Succession();
    Succession(const Succession &) = delete;
    Succession &operator=(const Succession &) = delete;

    /// True if this process is the keeper, now or already; else `ours` is called in time.
    bool claim(std::uint64_t inode);
    /// This process has the socket no longer, and wants nothing of it.
    void release(std::uint64_t inode);

  private:
    struct Place {
        explicit Place(Scheduler &scheduler) : timer(scheduler) {}

        Socket name; ///< listening: this process is the keeper
        std::unordered_map<int, Socket> heirs;
        Socket keeper;            ///< connected to the one that is
        bool is_stranger = false; ///< the keeper is of another family
        Timer timer;
    };

    bool take(std::uint64_t inode, Place &place);
    bool stand_by(std::uint64_t inode, Place &place, Socket keeper);
    void try_again(std::uint64_t inode);
    void greet(std::uint64_t inode);
    void keeper_spoke(std::uint64_t inode);
    void forget_keeper(Place &place);

    Scheduler &scheduler_;
    const EngineAddress self_;
    const std::function<void(std::uint64_t inode)> ours_;
    std::unordered_map<std::uint64_t, Place> places_;
};

} // namespace synergy
