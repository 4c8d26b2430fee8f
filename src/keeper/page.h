// The page that the keeper shares with the processes of the server (wire.h): theirs to look into.
#pragma once

#include "base/scheduler.h"
#include "base/socket.h"
#include "settings/settings.h"
#include "wire.h"

namespace synergy {

class Page {
  public:
    /// Throws std::system_error.
    Page();
    ~Page();
    Page(const Page &) = delete;
    Page &operator=(const Page &) = delete;

    [[nodiscard]] synergy_page &operator*() const { return *page_; }
    [[nodiscard]] synergy_page *operator->() const { return page_; }
    /// To be mapped by others.
    [[nodiscard]] const Socket &memory() const { return memory_; }

    /// In a copy of the process whose page it is: says that this one waits to take it over.
    void stand_by();
    /// In such a copy, when that process has been killed: makes the page this process's. False
    /// where another keeper has taken its place already.
    bool take_over();

    /// Says which local ports concern us.
    void show_ports(const Settings &settings);
    /// Says what time it is, in whole seconds.
    void show_time(Time now);

  private:
    Socket memory_;
    synergy_page *page_ = nullptr;
};

} // namespace synergy
