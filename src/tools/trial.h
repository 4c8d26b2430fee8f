// One try to get through the firewalls of two sides that both run `synergy test`: one side punches
// and is called, the other calls; or both call at the same time.
#pragma once

#include "punch/punch.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace synergy {

/// What is tried, in each direction by itself.
struct TrialKind {
    Transport transport = Transport::tcp;
    /// How long the hole is left alone before the call.
    std::chrono::seconds idle{0};
    /// Nobody punches: both sides' calls go all the way, and meet.
    bool both_call = false;

    bool operator==(const TrialKind &) const = default;
};

/// "tcp", "tcp, both call", "udp after 10 s": as the two sides name it to each other.
std::string name(const TrialKind &kind);

enum class Outcome : std::uint8_t {
    pending,
    passes,
    timed_out,
    refused,    ///< a reset, or port unreachable
    prohibited, ///< an ICMP error says that a firewall forbids it
    failed      ///< this host's system can't
};
const char *name(Outcome outcome);
/// pending where it is none.
Outcome outcome_of(const std::string &name);

/// From whom to whom, by the same port at both ends.
struct TrialWay {
    Endpoint source; ///< of this side, with the port
    Endpoint peer;   ///< with the port
    int hop_limit = hop_limit_guess;
    std::optional<Hop> dying_hop; ///< where punches die
};

/// The side that is called. It answers what comes for as long as it lives.
class Callee {
  public:
    virtual ~Callee() = default;
    /// Punches, once. 0, or an errno.
    virtual int punch() = 0;
};

/// The side that calls, as any client would.
class Caller {
  public:
    virtual ~Caller() = default;
    [[nodiscard]] virtual Outcome outcome() const = 0;
};

/// Throws std::system_error where the system has no such socket.
std::unique_ptr<Callee> make_callee(const PunchMeans &means, const TrialKind &kind,
                                    const TrialWay &way);
/// Calls at once.
std::unique_ptr<Caller> make_caller(Scheduler &scheduler, const TrialKind &kind,
                                    const TrialWay &way);

/// How long a call takes at most to be decided.
constexpr Duration call_patience = std::chrono::seconds(5);

} // namespace synergy
