// What every transport's way of opening a hole has in common.
#pragma once

#include "base/scheduler.h"
#include "base/timer_wheel.h"
#include "hops/hop_choice.h"
#include "hops/icmp_error.h"
#include "hops/route.h"
#include "punch/guard.h"
#include "punch/hole_begin.h"
#include "server/server_socket.h"
#include "server/traffic.h"
#include "settings/settings.h"

#include <memory>
#include <optional>
#include <vector>

namespace synergy {

/// A hole as firewalls keep it, and the hop limits of what opens it.
struct Hole {
    const ServerSocket &server; ///< whose local endpoint it is; outlives the hole
    Endpoint peer; ///< of the family that the server's socket speaks (v4-mapped if need be)
    HopRange hops;

    /// On the wire: also a v4-mapped peer of an AF_INET6 socket.
    [[nodiscard]] bool is_v4() const { return peer.unmapped().family() == AF_INET; }
    /// Where punches leave from; a wildcard or nothing where that is the kernel's choice.
    [[nodiscard]] Endpoint source(const Settings &settings) const;
    /// "tcp [2001:db8::11]:4444 <- [2001:db8::5]:5555"
    [[nodiscard]] std::string text() const;
    /// The same for all ports of the peer: "tcp [2001:db8::11]:4444 <- 2001:db8::5"
    [[nodiscard]] std::string way_text() const;
};

/// What a strategy asks those whose holes it opens, and tells them.
class HoleOwner {
  public:
    HoleOwner() = default;
    virtual ~HoleOwner() = default;
    HoleOwner(const HoleOwner &) = delete;
    HoleOwner &operator=(const HoleOwner &) = delete;

    /// Asked before anything is sent: false if the server no longer has the socket, whose holes
    /// end then.
    virtual bool check_alive(const ServerSocket &server) = 0;
    /// How many control chunks have come in the SCTP association with these ends, as far as the
    /// kernel tells.
    virtual std::uint64_t control_chunks(const Endpoint &from, const Endpoint &to) = 0;
    /// What firewalls know of the hole that keep it for so long: kept for the next one that has it.
    virtual std::shared_ptr<HoleBegin> begin_of(const Hole &hole, Duration lifetime) = 0;
    /// Takes a connection that a punch has become, to be accepted by the server.
    virtual void deliver(Socket connection, const Endpoint &peer, const ServerSocket &server) = 0;
    /// By which way the kernel sends to the peer; nothing where there is none, or no server that
    /// listens either.
    virtual std::optional<Route> route_of(const Hole &) { return std::nullopt; }
    /// How the error comes back from where a punch with this hop limit dies. What is not known is
    /// measured, for the next time.
    virtual std::optional<Hop> find_dying_hop(const Hole &hole, int hop_limit) = 0;
    /// The peer came in; the hole was last punched with this hop limit.
    virtual void proved(const Hole &hole, int hop_limit) = 0;
    /// Somebody on the way has refused a punch with this hop limit.
    virtual void refused(const Hole &hole, int hop_limit, const IcmpError &how) = 0;
};

/// What every strategy works with.
struct PunchMeans {
    Scheduler &scheduler;
    TimerWheel &timers;       ///< the kernel's
    const Settings &settings; ///< as they are now
    const Traffic &traffic;   ///< of the server's datagram sockets
};

struct PunchContext : PunchMeans {
    HoleOwner &owner;
};

/// What keeps a hole's punches from leaving is named once, until it is said to be over, and once
/// for all holes of which the same is to be said.
class FailureLog {
  public:
    explicit FailureLog(Scheduler &scheduler) : over_(scheduler) {}

    void failed(const Hole &hole, const std::string &cause);
    /// It is over if nothing fails for so long.
    void recovered(Duration for_sure);
    /// The latest punch has failed.
    [[nodiscard]] bool is_open() const { return is_open_; }

  private:
    bool is_open_ = false;
    std::string said_;   ///< and not said to be over
    unsigned times_ = 0; ///< that it was said to be over
    Timer over_;
};

/// What has become of a hole so far, for who asks.
struct HoleRecord {
    Time first_punched{}; ///< zero: never
    Time punched{};
    Time heard{}; ///< when a connection came through it
    unsigned connections = 0;
    unsigned handed_over = 0; ///< of them, to the server's accept()
    int hop_limit = 0;        ///< of the latest punch
    /// A router has said of a punch that it died there. Looked at for SCTP alone: what keeps that
    /// in, here or on the way, says nothing to who sends.
    bool is_answered = false;
    int refused_at = 0;  ///< the hop limit for which a reset or a prohibition came back last
    int error = 0;       ///< the errno with which the latest punch failed
    std::string cause{}; ///< of that, in words
};

/// A punch that changes hands, by its socket.
struct PunchOnItsWay {
    Socket socket;
    Socket backstop{}; ///< what stands behind it, if that comes along
    GuardStanding standing;
};

/// Keeps one hole open for as long as it lives; one class for each transport.
class Punch {
  public:
    Punch(const PunchContext &context, Hole hole)
        : context_(context), hole_(std::move(hole)), failure_log_(context.scheduler) {}
    virtual ~Punch() = default;
    Punch(const Punch &) = delete;
    Punch &operator=(const Punch &) = delete;

    /// Punches now, and from then on renews the hole by timers of its own; once it is open, punches
    /// once more where that does any good. 0, or the errno of a failure, after which it tries
    /// again.
    virtual int open() = 0;
    /// Makes these hop limits the hole's. False, and it stays as it is, if the best is none of
    /// those that it has had: that takes another punch.
    [[nodiscard]] bool adopt(const HopRange &hops);

    /// It is not renewed any more, unless it is opened again. Whoever comes while firewalls still
    /// hold it is met, lest somebody else answer. False: there is nothing to wait for.
    virtual bool let_end() { return false; }
    /// The server is about to connect the two ends itself: it comes back when that is over. False:
    /// it has nothing in the way.
    virtual bool make_way() { return false; }

    /// The socket that punches, for another listener's punch of the same hole; nothing: there is
    /// none now. This object punches no more.
    virtual std::optional<PunchOnItsWay> give_away() { return std::nullopt; }
    /// Whether it has none of its own, because that four-tuple is in use.
    [[nodiscard]] virtual bool may_take_over() const { return false; }
    /// Goes on with what another one has given away.
    virtual void take_over(PunchOnItsWay) {}

    [[nodiscard]] const Hole &hole() const { return hole_; }
    [[nodiscard]] const HoleRecord &record() const { return record_; }
    /// A connection that came through it is the server's now.
    void handed_over() { record_.handed_over++; }
    /// Whether what came through the hole has its four-tuple, or had it a moment ago.
    [[nodiscard]] virtual bool is_in_use() const { return false; }
    /// The cookies of the sockets that are there for this hole alone.
    [[nodiscard]] virtual std::vector<std::uint64_t> cookies() const { return {}; }
    /// The own address of the connection that came through the hole last; empty: there was none, or
    /// its four-tuple is free again.
    [[nodiscard]] const Endpoint &connected_from() const { return connected_from_; }

  protected:
    /// Of the latest punch.
    [[nodiscard]] int hop_limit() const { return record_.hop_limit; }
    /// To be called before each punch: its hop limit is the next of the range.
    void next_hop_limit();
    /// What has become of it. `from`: where it has left from, as far as that is known. False:
    /// nobody can answer there, which is said.
    bool punched(const Endpoint &from);
    void proved();
    /// The same where that says nothing of the hop limit.
    void has_come_in();
    void refused(const IcmpError &how);
    void answered() { record_.is_answered = true; }
    /// A system call has failed. The log says once why.
    void failed_here(int error);
    /// The same of another cause.
    void failed_by(const std::string &cause, int error);
    void recovered();
    [[nodiscard]] bool has_failed() const { return failure_log_.is_open(); }

    const PunchContext &context_;
    Hole hole_;
    Endpoint connected_from_;

  private:
    HoleRecord record_;
    FailureLog failure_log_;
    unsigned punches_ = 0;
};

/// The delay before trying again after `failures` in a row: none at first, since an error may have
/// closed the hole that the peer is about to use, then longer, up to `most`.
Duration retry_delay(unsigned failures, Duration most);

} // namespace synergy
