// When the hole began that firewalls have now.
#pragma once

#include "base/scheduler.h"

namespace synergy {

/// A firewall counts a hole's end from the packet that opened it, and nothing that leaves until
/// then prolongs it: the first one after that opens it anew.
class HoleBegin {
  public:
    /// `lifetime`: how long firewalls keep a hole that is not used.
    explicit HoleBegin(Duration lifetime) : lifetime_(lifetime), at_(Time{} - lifetime) {}

    /// A packet leaves that opens the hole where there is none.
    void leaves(Time at) { at_ = with(at); }
    /// When the hole begins that is open once a packet has left at that time.
    [[nodiscard]] Time with(Time packet) const { return packet >= ends() ? packet : at_; }
    [[nodiscard]] Time at() const { return at_; }
    void began(Time at) { at_ = at; }
    [[nodiscard]] Time ends() const { return at_ + lifetime_; }

  private:
    Duration lifetime_;
    Time at_;
};

} // namespace synergy
