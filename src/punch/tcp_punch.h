// TCP: guarded simultaneous open (RFC 9293 3.5; RFC 5382 REQ-2 and RFC 6092 REC-31 have firewalls
// let it through). A second socket beside the listener stays in SYN_SENT with the peer's address;
// its SYN opens the firewall and dies beyond it, and the peer's own SYN completes the connection.
#pragma once

#include "punch/guard.h"
#include "punch/punch.h"
#include "punch/syn_error.h"
#include "punch/syn_probe.h"

struct tcp_info;

namespace synergy {

class TcpPunch final : public Punch {
  public:
    TcpPunch(const PunchContext &context, Hole hole);
    ~TcpPunch() override;

    int open() override;
    bool let_end() override;
    std::optional<PunchOnItsWay> give_away() override;
    [[nodiscard]] bool may_take_over() const override {
        return !is_ending_ && (!socket_ || rests_ > 0);
    }
    void take_over(PunchOnItsWay given) override;
    bool make_way() override;
    [[nodiscard]] std::vector<std::uint64_t> cookies() const override;
    [[nodiscard]] bool is_in_use() const override { return rests_ > 0 || was_connected_; }

  private:
    int bind_socket();
    void close_socket();
    bool go_back();
    int begin_connecting();
    int punch();
    void happened();
    void tick();
    [[nodiscard]] unsigned missed_calls() const;
    [[nodiscard]] bool has_missed_peer() const;
    bool open_in_time();
    bool answer_missed_call();
    void answer_peer(bool was_heard);
    [[nodiscard]] bool ask_what_came();
    void know_what_came(int error);
    void failed(int error);
    void timed_out();
    void refused_elsewhere(const IcmpError &answer);
    void refused_here(const IcmpError &answer);
    void error_came();
    Duration end_punch();
    void begin_again();
    void look_whether_syns_leave(const tcp_info &info);
    [[nodiscard]] bool was_taken() const;
    void established();
    void retry_at(Time time);
    void follow_dying_hop();
    void hear_from(int least_hop_limit);
    void follow_guard(Guard::Phase before);
    void set_user_timeout(Duration timeout);
    void schedule();

    bool is_v4_;
    int deaf_hop_limit_; ///< of what is heard at least while an error is to come
    bool is_round_trip_known_ = false;
    Socket socket_;
    Socket spent_;                        ///< the next punch's, while there is none
    Socket backstop_;                     ///< for as long as the hole may be open
    std::vector<OptionValue> socket_has_; ///< of the server's options, this or the other
    Guard guard_;
    Timer timer_;
    Time busy_until_{};          ///< how long a half-open connection may take
    bool was_connected_ = false; ///< since the last punch
    SynDepartures departures_;
    bool is_unreachable_here_ = false; ///< as the latest error said, and no router is why
    bool is_reset_doubted_ = false;    ///< the last one, after this host's own
    bool is_ending_ = false;           ///< with its hole
    SynProbe probe_;                   ///< asks what has come unheard
    unsigned dropped_before_ = 0;      ///< by the socket, of what came before its first SYN of now
    unsigned left_to_repeat_ = 0;      ///< so many calls were missed, and are not answered by ours
    unsigned failures_ = 0;
    unsigned rests_ = 0; ///< attempts for which the four-tuple was not free
};

} // namespace synergy
