// The two sides of `synergy test`: how they find each other, what they try, and when it is over.
//
// Nobody tells them anything but each other's address. Both send what they know to the other, as a
// JSON object in a UDP datagram, some times a second, from a port to the same port: so both
// firewalls have a hole as soon as both sides are there. When each hears the other, both begin, and
// every trial has a port of its own.
#pragma once

#include "hops/kept_out.h"
#include "tools/test_report.h"

#include <nlohmann/json_fwd.hpp>

#include <functional>
#include <list>
#include <string>
#include <system_error>
#include <vector>

namespace synergy {

class FirewallTest {
  public:
    struct Options {
        Endpoint peer;          ///< port 0
        Endpoint source;        ///< an address of this host, port 0
        std::uint16_t port = 0; ///< the first of ports_used that are used at both ends
        int hop_limit = hop_limit_guess;
        std::optional<Hop> dying_hop; ///< where punches die
        std::vector<std::chrono::seconds> idle;
    };
    /// As many are needed for up to four idle times.
    static constexpr std::uint16_t ports_used = 12;
    static constexpr std::size_t idle_times_most = 4;
    static constexpr unsigned idle_most = 3600; ///< seconds
    /// Where the sides meet if they were given different ports: the last of the calling ports.
    static constexpr std::uint16_t meeting_port = 61699;

    /// Whether none of that many, from this one on, is the meeting's or a bell's.
    static bool has_room_at(std::uint16_t port);

    /// `say` is told what there is to know while it runs, a line each. Throws std::runtime_error
    /// in words.
    FirewallTest(Scheduler &scheduler, Options options,
                 std::function<void(const std::string &)> say);
    ~FirewallTest();
    FirewallTest(const FirewallTest &) = delete;
    FirewallTest &operator=(const FirewallTest &) = delete;

    [[nodiscard]] bool is_over() const { return phase_ == Phase::over; }
    [[nodiscard]] TestReport report() const;

  private:
    enum class Phase : std::uint8_t { waiting, testing, done, over };
    struct Trial {
        TrialKind kind;
        bool is_called = false; ///< this side is
        std::unique_ptr<Callee> callee;
        std::unique_ptr<Caller> caller;
        Outcome outcome = Outcome::pending; ///< of this side's call
        std::uint16_t port = 0;
        int error = 0; ///< why this side has no socket for it
    };
    struct Meeting {
        Socket socket;
        Endpoint peer; ///< with the port
        bool is_heard = false;
    };

    void open_meeting(std::uint16_t port);
    void send();
    [[nodiscard]] std::string message() const;
    void hear(Meeting &meeting);
    void heard(const std::string &text, const Endpoint &from);
    void say_once(const std::string &line);
    void wait();
    void begin();
    void hear_what_is_not_called(const nlohmann::json &json);
    void has_no_socket(Trial &trial, const std::system_error &error);
    void look();

    Scheduler &scheduler_;
    const Options options_;
    const std::function<void(const std::string &)> say_;
    std::vector<std::string> said_;

    const KeptOut kept_out_;  ///< since the test began
    const std::string nonce_; ///< this side's: the lower of the two leads
    std::string peer_nonce_;
    Phase phase_ = Phase::waiting;
    std::list<Meeting> meetings_;
    Time last_heard_{}, begun_{}, done_at_{};
    std::optional<Endpoint> seen_as_, peer_seen_as_;
    Endpoint peer_source_;
    bool peer_is_done_ = false, peer_has_results_ = false, peer_has_sctp_ = false;
    std::map<std::string, Outcome> peer_calls_; ///< by the kind's name
    std::vector<std::chrono::seconds> idle_;

    synergy_page no_page_{};
    Traffic no_traffic_;
    TimerWheel timers_;
    Settings settings_;
    const PunchMeans means_;
    std::list<Trial> trials_;
    Timer sending_, looking_, waiting_;
    std::list<Timer> calls_;
};

} // namespace synergy
