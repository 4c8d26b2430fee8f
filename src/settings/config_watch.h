// The config file and the directory peers.d beside it: told when they change.
#pragma once

#include "base/scheduler.h"

#include <functional>
#include <string>
#include <sys/inotify.h>

namespace synergy {

class ConfigWatch {
  public:
    /// `changed` is called from the scheduler, soon after anything was written, came or went; what
    /// comes within a moment is one change.
    ConfigWatch(Scheduler &scheduler, std::string config_file, std::function<void()> changed);
    ~ConfigWatch();
    ConfigWatch(const ConfigWatch &) = delete;
    ConfigWatch &operator=(const ConfigWatch &) = delete;

    /// Before the files are read for the first time. 0, or an errno: changes will not be seen.
    int begin();

  private:
    [[nodiscard]] int watch_all() const;
    void look_at(Time time);
    [[nodiscard]] bool is_complete(const inotify_event &event) const;
    void take_events();

    Scheduler &scheduler_;
    std::string config_file_;
    std::function<void()> changed_;
    Socket events_;
    bool is_due_ = false;
    Timer due_;
};

} // namespace synergy
