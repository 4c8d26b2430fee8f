// What a server's processes ask of the keeper, and its answers.
#pragma once

#include "handoff/handoff.h"
#include "keeper/control.h"
#include "keeper/page.h"
#include "keeper/processes.h"
#include "keeper/registry.h"
#include "server/socket_diag.h"

#include <map>
#include <unordered_set>

namespace synergy {

class Requests {
  public:
    using Call = Control::Call;
    using Reply = Control::Reply;

    struct Owner {
        /// There is a socket that has holes, or has more.
        std::function<void()> opened;
        /// Something else is known that is to be known by who takes the keeper's place.
        std::function<void()> learned;
        /// A socket of the server's may go in a moment, and nobody will say so.
        std::function<void()> ends_soon;
        /// Sockets of this user's are to be bound beside. True where that changed something.
        std::function<bool(uid_t owner, gid_t group)> become_ready_for;
        /// The next process of a shell's loop would have what the last one has left.
        std::function<void(const Call &, Reply &)> adopt;
    };

    Requests(Page &page, SocketDiag &socket_diag, const Traffic &traffic, Handoff &handoff,
             Registry &registry, Control &control, Processes &processes, Owner owner)
        : page_(page), socket_diag_(socket_diag), traffic_(traffic), handoff_(handoff),
          registry_(registry), control_(control), processes_(processes), owner_(std::move(owner)) {}

    Reply answer(const Call &call);
    /// The socket that came along with the call that is being answered, by cookie: who asks has it.
    [[nodiscard]] std::uint64_t passed() const { return passed_; }
    /// What another keeper has learned, whose place this one takes.
    void take_over(const Requests &killed);

  private:
    void open(const Call &call, Reply &reply);
    void listens(const Call &call);
    void open_toward(const Call &call, Reply &reply);
    [[nodiscard]] std::optional<ServerSocket> describe_passed(const Call &call);
    [[nodiscard]] bool is_for_others(const ServerSocket &socket) const;
    void refuse_inimitable(const ServerSocket &socket);
    void refuse_obstructed(const ServerSocket &socket, const Obstacle &obstacle);
    [[nodiscard]] int make_room(const ServerSocket &socket, const Socket &passed,
                                Socket &duplicate) const;
    /// `target`: nobody else.
    [[nodiscard]] int open_described(const ServerSocket &socket, const Call &call,
                                     const std::optional<Target> &target);
    void shut_down(const Call &call);
    void fetch(const Call &call, Reply &reply);
    void meet(const Call &call, Reply &reply);
    void executed_without_library(const Call &call);
    void bind(const Call &call, Reply &reply);
    [[nodiscard]] bool is_kept_for(const Call &call) const;
    void keep_key(const Call &call, Reply &reply);
    void take(const Call &call, Reply &reply);
    void status(Reply &reply);

    Page &page_;
    SocketDiag &socket_diag_;
    const Traffic &traffic_;
    Handoff &handoff_;
    Registry &registry_;
    Control &control_;
    Processes &processes_;
    const Owner owner_;
    std::map<std::uint64_t, std::vector<OptionValue>> keys_; ///< by the cookie of their socket
    std::unordered_set<std::uint64_t> said_; ///< of which sockets, that they are lost by exec
    std::uint64_t passed_ = 0;
};

} // namespace synergy
