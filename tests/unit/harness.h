// What several tests need: descriptors counted, sockets on loopback, a process of one's own.
#pragma once

#include "base/endpoint.h"
#include "base/scheduler.h"
#include "base/socket.h"

#include <chrono>
#include <functional>
#include <set>
#include <string>
#include <utility>

namespace harness {

/// The descriptors that this process has open.
std::set<int> open_descriptors();

/// Lets the scheduler work until `is_done`; false if that takes longer than `limit`.
bool run_until(synergy::Scheduler &scheduler, const std::function<bool()> &is_done,
               synergy::Duration limit = std::chrono::seconds(5));

/// Waits, looking every few milliseconds, until `is_done`; false if it takes longer than `limit`.
bool wait_until(const std::function<bool()> &is_done,
                synergy::Duration limit = std::chrono::seconds(5));

/// A blocking TCP socket bound to this address; throws std::system_error.
synergy::Socket bound_tcp(const synergy::Endpoint &at);
/// The same, listening.
synergy::Socket listening_tcp(const synergy::Endpoint &at, int backlog = 16);
/// A TCP connection of this host to itself: the accepted end first.
std::pair<synergy::Socket, synergy::Socket> tcp_pair();

/// Whether this process may make a file there, or add to the one that is there. Where it may, it
/// does.
bool can_write(const std::string &path);

/// A directory that goes away with the value.
class Directory {
  public:
    Directory();
    ~Directory();
    Directory(const Directory &) = delete;
    Directory &operator=(const Directory &) = delete;

    [[nodiscard]] std::string path(const std::string &name) const { return path_ + "/" + name; }
    /// Makes the directories as well; gives the path.
    std::string write(const std::string &name, const std::string &content) const;

  private:
    std::string path_;
};

/// Whether a read finds something (data, end of file, a connection to accept) within `limit`.
bool is_readable(int fd, synergy::Duration limit);

/// Runs `body` in a child process, for what may be set once a process only or needs a fork anyway.
/// What it returns, or how the child ended if it did not: "" means that all is well. A child that
/// takes longer than 60 s is killed.
std::string in_child(const std::function<std::string()> &body);

} // namespace harness

/// Within in_child(): gives up with the text of the condition if it doesn't hold.
#define EXPECT_IN_CHILD(condition)                                                                 \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return std::string("line ") + std::to_string(__LINE__) + ": " #condition;              \
    } while (0)
