// The settings as they are now: the config file changes, and host names get other addresses.
#pragma once

#include "settings/config_watch.h"
#include "settings/host_names.h"
#include "settings/settings.h"

#include <optional>
#include <set>

namespace synergy {

class LiveSettings {
  public:
    /// `changed` is called from the scheduler whenever now() says something else.
    LiveSettings(Scheduler &scheduler, Settings initial, std::function<void()> changed);

    /// The same object always.
    [[nodiscard]] const Settings &now() const { return now_; }

    /// Keeps up with the file from here on, if there is one. True if now() says something else
    /// since.
    bool follow_file();
    /// Keeps up with the names.
    void follow_names();
    /// Until the next follow_names(): nobody asks name servers for what has no use.
    void forget_names();

  private:
    bool reload();
    void resolve();
    void say_problems();
    void say_passed_over(const std::vector<PassedOver> &before) const;
    [[nodiscard]] std::string text_of(const Problem &problem) const;
    [[nodiscard]] bool is_of_file(const Problem &problem) const;
    [[nodiscard]] bool is_in_force(const Problem &problem) const;

    Scheduler &scheduler_;
    Settings now_;
    std::function<void()> changed_;
    std::set<std::string> said_;   ///< the lines of problems that are known
    bool is_file_in_force_ = true; ///< it has been read without a mistake once
    std::optional<ConfigWatch> watch_;
    std::optional<HostNames> names_;
    Timer next_try_;
    bool follows_names_ = false;
};

} // namespace synergy
