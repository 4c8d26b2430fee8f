// SCTP, one-to-many sockets: the server's own socket begins the association, with a hop limit that
// lets its INIT open the firewall and die beyond it, and waits for the peer's in COOKIE_WAIT. To
// renew the hole it takes the association back and begins another: that sends nothing, and the
// server is told nothing of it.
#pragma once

#include "punch/punch.h"
#include "punch/sctp_associations.h"

namespace synergy {

class SctpManyPunch final : public Punch {
  public:
    /// `fd`: a duplicate of the server's socket; its owner outlives the punch.
    SctpManyPunch(const PunchContext &context, Hole hole, int fd);
    ~SctpManyPunch() override;

    int open() override;
    [[nodiscard]] bool is_in_use() const override;

  private:
    int punch();
    [[nodiscard]] int begin(bool is_answer);
    [[nodiscard]] bool is_refused_here();
    [[nodiscard]] bool has_answered() const;
    void take_back();
    void await_peer_from(Time now);
    void await_peer();
    void await_end();

    SctpAssociations associations_;
    int fd_;
    bool is_v4_;
    std::shared_ptr<HoleBegin> begin_;
    std::int32_t association_ = 0; ///< what is begun or established; 0: nothing
    Time begun_{};
    Time next_{}; ///< when another one is to begin, where no peer has come
    Timer timer_;
    unsigned failures_ = 0;
};

} // namespace synergy
