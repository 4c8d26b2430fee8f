// Host names of peers: their addresses as the system resolves them, asked for again and again.
#pragma once

#include "base/endpoint.h"
#include "base/scheduler.h"

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace synergy {

/// What a host name stands for at this moment.
struct ResolvedHost {
    int error = 0;                   ///< of getaddrinfo(3); 0 where there are addresses
    std::vector<Endpoint> addresses; ///< without ports, each once, in an order that stays
    std::vector<Endpoint> useless;   ///< that no peer can have: loopback, wildcard and the like

    /// Of an error, in words that go on after the name.
    [[nodiscard]] std::string what_is_wrong() const;
};

/// As the system resolves it, which may take as long as the network makes it.
ResolvedHost resolve_host(const std::string &host);

class HostNames {
  public:
    using Addresses = std::map<std::string, std::vector<Endpoint>>;

    /// `changed` is called from the scheduler soon after addresses() have. Throws
    /// std::system_error.
    HostNames(Scheduler &scheduler, std::function<void()> changed);
    ~HostNames();
    HostNames(const HostNames &) = delete;
    HostNames &operator=(const HostNames &) = delete;

    /// From now on these, each as soon as can be and then `interval` after every answer. Those that
    /// are no longer among them are forgotten.
    void follow(const std::set<std::string> &hosts, Duration interval);

    /// Without ports, in an order that stays; of a name that does not resolve any more, the last
    /// that were known.
    [[nodiscard]] const Addresses &addresses() const { return addresses_; }

  private:
    struct Answer;
    struct Pipe;
    struct Host {
        explicit Host(Scheduler &scheduler) : next(scheduler) {}

        Timer next;
        std::string said; ///< why it is not known
    };

    void ask(const std::string &host);
    void ask_more();
    void take_answers();
    void take(const Answer &answer);

    Scheduler &scheduler_;
    std::function<void()> changed_;
    bool is_due_ = false;
    Timer due_;
    Duration interval_{};
    std::map<std::string, Host> hosts_;
    Addresses addresses_;
    std::deque<std::string> waiting_; ///< for a thread
    std::size_t under_way_ = 0;
    std::shared_ptr<const Pipe> answers_; ///< also the threads', the last of which closes it
};

} // namespace synergy
