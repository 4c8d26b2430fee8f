// What every transport's way of opening a hole has in common.
#pragma once

#include "control.h"
#include "scheduler.h"
#include "server_descriptors.h"
#include "settings.h"

#include <functional>

namespace synergy {

/// A hole as firewalls keep it, and the hop limit of what opens it.
struct Hole {
    Transport transport = Transport::tcp;
    ServerSocket server; ///< whose local endpoint it is
    Endpoint peer;       ///< of the family that the server's socket speaks (v4-mapped if need be)
    int hop_limit = 0;

    /// "tcp [2001:db8::11]:4444 <- [2001:db8::5]:5555"
    [[nodiscard]] std::string text() const;
};

/// What a strategy needs of the engine.
struct PunchContext {
    Scheduler &scheduler;
    Settings settings;
    /// Asked before anything is sent: false if the server no longer has the socket.
    std::function<bool(const ServerSocket &)> is_alive;
    /// Takes a connection that a punch has become, to be accepted by the server.
    std::function<void(Socket connection, const Endpoint &peer, const ServerSocket &server)>
        deliver;
};

/// Keeps one hole open for as long as it lives; one class for each transport.
class Punch {
  public:
    Punch(const PunchContext &context, Hole hole) : context_(context), hole_(std::move(hole)) {}
    virtual ~Punch() = default;
    Punch(const Punch &) = delete;
    Punch &operator=(const Punch &) = delete;

    /// Punches now, and from then on renews the hole by timers of its own; once it is open, punches
    /// once more where that does any good. 0, or the errno of a failure, after which it tries
    /// again.
    virtual int open() = 0;
    [[nodiscard]] int hop_limit() const { return hole_.hop_limit; }

  protected:
    const PunchContext &context_;
    const Hole hole_;
};

/// The delay before trying again after `failures` in a row: none at first, since an error may have
/// closed the hole that the peer is about to use, then longer, up to `most`.
Duration retry_delay(unsigned failures, Duration most);

/// Whether a failure of a system call when punching is worth more than a debug line: once for each
/// new errno.
class FailureLog {
  public:
    void failed(const Hole &hole, const char *what, int error);
    void recovered() { last_ = 0; }

  private:
    int last_ = 0;
};

} // namespace synergy
