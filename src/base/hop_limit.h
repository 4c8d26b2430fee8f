// How far punches go (hop limit, RFC 8200 3; TTL in IPv4).
#pragma once

#include <optional>

namespace synergy {

/// Used for `auto` until the path says better: the last local firewall is rarely further than two
/// hops away, the first remote one rarely nearer than four.
constexpr int hop_limit_guess = 3;
constexpr int hop_limit_min = 1;
/// 255 would be no limit at all: it is the most that the field can hold (RFC 8200 3).
constexpr int hop_limit_max = 254;

/// A hop limit as somebody sets it: a number from hop_limit_min to hop_limit_max, or automatic.
class HopLimit {
  public:
    /// Automatic: as the path has it.
    constexpr HopLimit() = default;

    /// nullopt: the number is none.
    static constexpr std::optional<HopLimit> from(int number) {
        if (number < hop_limit_min || number > hop_limit_max)
            return std::nullopt;
        HopLimit limit;
        limit.number_ = number;
        return limit;
    }

    [[nodiscard]] constexpr bool is_automatic() const { return !number_; }
    /// Of one that is not automatic.
    [[nodiscard]] constexpr int number() const { return number_.value(); }

    bool operator==(const HopLimit &) const = default;

  private:
    std::optional<int> number_;
};

} // namespace synergy
