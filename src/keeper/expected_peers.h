// Peers that synergy_to() was called for before their socket listened.
#pragma once

#include "settings/settings.h"

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace synergy {

class ExpectedPeers {
  public:
    /// Of the socket with this cookie. 0, or ENOSPC.
    int add(std::uint64_t cookie, const Target &target);
    /// What was added for it, in that order.
    [[nodiscard]] std::vector<Target> of(std::uint64_t cookie) const;
    [[nodiscard]] bool has(std::uint64_t cookie) const { return expected_.contains(cookie); }
    void forget(std::uint64_t cookie) { expected_.erase(cookie); }

  private:
    std::unordered_map<std::uint64_t, std::vector<Target>> expected_;
};

} // namespace synergy
