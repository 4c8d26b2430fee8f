// A server's keeper: what it begins with, what takes its place, and when it is all over.
#pragma once

#include "handoff/handoff.h"
#include "keeper/control.h"
#include "keeper/page.h"
#include "keeper/port_sharers.h"
#include "keeper/processes.h"
#include "keeper/registry.h"
#include "keeper/requests.h"
#include "keeper/standby.h"
#include "server/socket_diag.h"

#include <optional>

namespace synergy {

class Keeper : private RegistryOwner {
  public:
    /// `written`: the places where root's keeper writes, and no others. Throws std::system_error.
    Keeper(Page &page, const Settings &settings, const std::string &learned_file,
           std::vector<std::string> written);

    /// Tells the process that started the keeper, at the other end of this connection, where the
    /// page is, and serves its requests from then on. `server_stderr`: a descriptor of ours that
    /// stands for it, or -1.
    void answer_start(Socket connection, pid_t starter, bool is_early, int server_stderr);
    /// Until the server has no process any more, or no socket.
    void run();
    /// What is due now or within `longest`, once.
    void work(Duration longest);

  private:
    using Call = Control::Call;
    using Reply = Control::Reply;

    bool locate(ServerSocket &socket) const override;
    bool is_at_work() override;
    void parked(std::uint64_t cookie) override;
    void listens_again(std::uint64_t before, std::uint64_t now) override;
    void dropped(std::uint64_t cookie) override;
    void give(Gift gift, std::uint64_t to, const std::function<void(Gift)> &refused) override;
    void serve_waiting() override;
    void settings_changed() override;

    void look_for_the_end();
    /// Ends after that time if no socket has come by then.
    void rest_for(Duration time);
    void end();
    void take_signals();
    void look_often();
    void process_has_ended();
    void adopt(const Call &call, Reply &reply);
    /// True where that changed something.
    bool become_ready_for(uid_t owner, gid_t group);
    void tell_time();
    /// Root's alone, and once.
    void give_up_rights_after(Duration time);
    void give_up_rights();
    void answer_at_stderr(pid_t starter);
    void leave_standby();
    void make_standby();
    [[noreturn]] void go_on_in_its_place();
    void take_over(const Keeper &killed);

    Standby standby_; ///< is waited for at the end, when the ports are free
    Scheduler scheduler_;
    Page &page_;
    mutable SocketDiag socket_diag_;
    Traffic traffic_;
    PortSharers sharers_;
    Handoff handoff_;
    Registry registry_;
    Control control_;
    Processes processes_;
    Requests requests_;
    Socket signals_;
    Timer looking_; ///< for what a signal to end has closed
    Timer rest_;    ///< without a socket
    const std::string learned_file_;
    const std::vector<std::string> written_;
    Timer afterwards_; ///< what can wait until the server's first listen() has returned
    Timer giving_up_rights_;
    std::optional<Time> keeps_rights_until_; ///< at most
    Timer telling_time_;
    bool is_early_ = false;
    bool suits_any_user_ = false;
    int server_stderr_ = -1;
    pid_t starter_ = 0;        ///< who has had the keeper started, or become its server later
    Duration start_up_{};      ///< how long that took it
    Time told_to_end_until_{}; ///< a signal has come
    Time looks_often_until_{}; ///< the server may close a socket unseen
    bool is_over_ = false;
    Duration before_standby_;
    Timer leaving_standby_;
    bool is_standby_due_ = false;
};

} // namespace synergy
