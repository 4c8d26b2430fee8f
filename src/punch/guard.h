// When a punching socket in SYN_SENT may be heard, when it must be deaf, and when its next SYN
// goes.
//
// Every SYN that the socket sends, its first one and the kernel's retransmissions, has to leave
// with the punch's hop limit, and the ICMP error that it dies with would kill the socket. Between
// them the hop limit must be the ordinary one, or the answer to the peer's SYN would die as well.
//
// All SYNs of a socket must have one sequence number: a firewall that has seen the peer's SYN (and
// the socket did not, being deaf) drops a SYN of ours that comes with another one. So renewing is
// left to the kernel's retransmissions, and TCP_USER_TIMEOUT says when they come: the kernel
// retransmits at once when that time is over, and gives up instead if it has not been extended
// before. A SYN can't slip out, then, while the keeper is kept from running.
#pragma once

#include "base/timer_wheel.h"
#include "punch/hole_begin.h"

#include <algorithm>
#include <cstdint>
#include <memory>

namespace synergy {

/// Where the kernel's retransmission timer stands (TCP_INFO: tcpi_retransmits, tcpi_rto).
struct SynTimer {
    unsigned retransmits = 0;
    Duration timeout{};
};

/// A guard's times, which are of a clock that all processes have (CLOCK_MONOTONIC).
struct GuardStanding {
    std::uint32_t step = 0, retransmits = 0, short_intervals = 0;
    std::uint32_t dropped_before = 0; ///< by its socket, before the first SYN
    bool is_staggered = false, has_gone_far = false;
    Time hole_began{}, first_sent{}, last_sent{}, next{}, retransmission{}, not_before{},
        deadline{};
    Duration window{};
};

class Guard {
  public:
    /// How the socket is to be set: the guard alone knows.
    enum class Phase {
        low,  ///< the punch's hop limit, and deaf to all: a SYN may leave
        deaf, ///< the ordinary hop limit, and deaf to what may be its error
        open  ///< and deaf no more: every peer's SYN is welcome
    };

    /// The thread must have run by this long before the kernel may retransmit for the first time,
    /// or the SYN would slip out. The kernel's timers run late, never early, and ours by less than
    /// this on a busy machine.
    static constexpr Duration lead = std::chrono::milliseconds(60);
    /// From then on a late thread costs no more than the socket, with the number that firewalls
    /// know. The lead is what this machine needs, from this on; where the thread runs later than is
    /// believed above, that is more the first time, too.
    static constexpr Duration least_lead = std::chrono::milliseconds(4);
    static constexpr Duration longest_lead = std::chrono::milliseconds(400);
    /// The first time it is what the thread has been late by before, for a SYN that slips out is
    /// worse than a call that is answered when it comes again.
    static constexpr Duration longest_first_lead = std::chrono::milliseconds(800);

    /// RFC 6298 2.1: "Until a round-trip time (RTT) measurement has been made [...] the sender
    /// SHOULD set RTO <- 1 second". So the peer's client, too, sends its SYN again after a second.
    static constexpr Duration first_timeout = std::chrono::seconds(1);

    /// Between the first SYNs. Were it a second, which is what the kernel would make it, a client
    /// whose SYN came while the socket was deaf would find it deaf again each time that it tries,
    /// both keeping the same intervals.
    /// The first differs, so that neither the second nor the third second after a SYN is deaf
    /// again.
    static constexpr Duration out_of_step_first = std::chrono::milliseconds(700);
    static constexpr Duration out_of_step = std::chrono::milliseconds(780);
    /// How many retransmissions there are while the intervals are that short. The kernel's own
    /// ones, which can't be made longer, are 1 s four times (tcp_syn_linear_timeouts) and are
    /// doubled each time from then on: after so many, none is shorter than the time between
    /// renewals.
    static constexpr unsigned short_intervals = 7;
    /// And after a connection that the peer may have ended by a reset: for 10 s
    /// (nf_conntrack_tcp_timeout_close), Linux takes a SYN of ours for none.
    /// That and a little more than the intervals of the peer's client, 1, 2, 4 and 8 s.
    /// (pf takes the first one after a connection for the end of that; the second counts.)
    static constexpr unsigned short_intervals_again = 20;

    /// How long a Linux firewall keeps a hole (nf_conntrack_tcp_timeout_syn_sent, 120 s), and a
    /// little more. No SYN prolongs that: the first one after it opens the hole anew, and so one is
    /// to come right then.
    static constexpr Duration hole_lifetime = std::chrono::milliseconds(120200);
    static constexpr Duration last_moment = std::chrono::milliseconds(200);

    /// `window`: how long after a SYN its error may come; zero where the socket can tell the error
    /// from the peer's SYN and need not be deaf (IPv4). `refresh`: the longest time between SYNs.
    /// `wheel` says when the kernel's timers run out; it has to outlive the guard.
    /// `stagger`, from 0 to 1: another for each hole of a listener, lest they all be deaf at the
    /// same moments. `hole`: what firewalls know of it by now.
    Guard(Duration window, Duration refresh, const TimerWheel &wheel,
          std::shared_ptr<HoleBegin> hole, double stagger = 0)
        : window_(window), refresh_(refresh), wheel_(wheel), stagger_(stagger),
          hole_(std::move(hole)) {}

    /// There is a new socket, set as every socket is.
    void begin() { step_ = Step::idle; }
    /// The first SYN is about to leave.
    void sending() { step_ = Step::sending; }
    /// The first SYN has left, not before `asked`. `is_again`: there was a connection with these
    /// endpoints before.
    void sent(Time asked, Time now, bool is_again = false);
    /// How late the thread may be.
    void expect_lateness(Duration lateness);
    /// What the error of a SYN is expected to take. Less than errors have taken before is not
    /// believed.
    void expect_error_within(Duration window);
    /// The peer has called unheard since the last SYN, whose error is still to come. Its next call
    /// is a second away, so that nothing is lost by being deaf for a while longer; an error that is
    /// late would take the socket, and so the number that firewalls expect by now.
    void peer_was_missed();
    /// Whether the next call of a peer that was missed about the last SYN comes when it is heard:
    /// then that is waited for. Nothing may end the socket meanwhile, since firewalls that have
    /// seen the peer's SYN take no other number: a SYN that we are too late for goes all the way,
    /// as an answer, and the error of one that we are not has all the time until the call.
    bool wait_for_next_call();
    /// An ICMP error has killed the socket: the window was too short. It is wider from now on.
    void error_came(Time now);
    /// Where it stands with the socket that it has.
    [[nodiscard]] GuardStanding standing() const;
    /// Takes up another one's socket where that stands, and as it is set.
    void take_over(const GuardStanding &standing);
    /// To be called at next() with what the kernel said at `now` or later.
    void tick(Time now, SynTimer timer);
    /// The peer has called: what leaves from now on is the answer.
    void peer_called() { step_ = Step::answering; }
    /// The same of a peer that was heard at `now` or before. What was answered while the hop limit
    /// was low may have an error come back: then next() says until when the socket is deaf.
    void peer_was_heard(Time now);
    /// The SYN that was to be the answer has left before that was sure: with either hop limit.
    void called_too_late() {
        step_ = Step::awaiting;
        has_gone_far_ = true;
    }

    [[nodiscard]] Phase phase() const {
        switch (step_) {
        case Step::sending:
        case Step::awaiting:
            return Phase::low;
        case Step::error_due:
        case Step::answering_deaf:
            return Phase::deaf;
        default:
            return Phase::open;
        }
    }
    /// When Linux firewalls forget the hole, unless another SYN opens it again just then.
    [[nodiscard]] Time hole_ends() const {
        return std::max(hole_->ends(), socket_.ends()) - last_moment;
    }
    [[nodiscard]] Duration window() const { return window_; }
    /// The error of a SYN that has left is to come.
    [[nodiscard]] bool is_error_due() const { return step_ == Step::error_due; }
    /// The peer has called.
    [[nodiscard]] bool is_answering() const {
        return step_ == Step::answering || step_ == Step::answering_deaf;
    }
    /// The next SYN is about to leave.
    [[nodiscard]] bool is_awaiting() const { return step_ == Step::awaiting; }
    /// By what the kernel says, no SYN has left that the guard has not been told of.
    [[nodiscard]] bool knows_all(SynTimer timer) const { return timer.retransmits == seen_; }
    /// A SYN of this socket may have gone all the way, while none was to. Which of them the peer
    /// answers can't be told from then on: they all have one number, and an answer is repeated.
    [[nodiscard]] bool has_gone_far() const { return has_gone_far_; }
    /// When tick() is wanted.
    [[nodiscard]] Time next() const { return next_; }
    /// TCP_USER_TIMEOUT for the socket from now on (tcp(7)): since the first SYN.
    [[nodiscard]] Duration user_timeout() const { return deadline_ - first_sent_; }

  private:
    enum class Step { idle, sending, error_due, hearing, awaiting, answering_deaf, answering };

    void left(Time now);
    [[nodiscard]] Time error_has_come() const;
    [[nodiscard]] Time next_look(Time now) const;
    [[nodiscard]] Time next_after(Time syn, unsigned retransmits);
    [[nodiscard]] Duration lead_now() const {
        return seen_ == 0 ? std::max(lead, lead_) : std::min(lead_, longest_lead);
    }
    [[nodiscard]] Time look_at_lead(Time now) const;

    Duration window_;
    Duration least_window_{}; ///< an error has come as late as that
    Duration refresh_;
    const TimerWheel &wheel_;
    double stagger_;
    bool is_staggered_ = false;
    Duration lead_ = lead;
    Step step_ = Step::idle;
    Time next_{};
    Time first_sent_{};
    /// The firewalls count from the first SYN of this socket or, where earlier ones have failed
    /// within the hole's lifetime, the first one of theirs: it depends on whether a firewall has
    /// seen those. Both are taken for it.
    std::shared_ptr<HoleBegin> hole_;
    HoleBegin socket_{hole_lifetime};
    Time last_sent_{};
    bool is_peer_missed_ = false; ///< since then
    Time next_call_{};            ///< is waited for, and comes then or later
    Time retransmission_{};       ///< when the kernel's timer runs out, if not later
    Time not_before_{};           ///< the SYN that is awaited had not left then
    Time deadline_{};             ///< no retransmission from here on unless it is moved
    unsigned seen_ = 0;
    bool has_gone_far_ = false;
    unsigned short_ones_ = short_intervals;
};

} // namespace synergy
