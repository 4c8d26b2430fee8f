// The peers that a list of texts names, and no more of them than a socket can have holes.
#pragma once

#include "settings/settings.h"

#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace synergy {

/// The peers of one rule.
class PeerList {
  public:
    /// What is wrong with a text is added to `problems`.
    explicit PeerList(std::vector<Problem> &problems) : problems_(problems) {}

    /// "[2001:db8::5]:5555-5560, 198.51.100.5:5555": comma or white space between. `place`: where
    /// that is written. A peer that is wrong, or for which there is no room, is left out.
    void add(std::string_view text, const std::string &place);

    /// Ends the list.
    [[nodiscard]] std::vector<Peer> take() { return std::move(peers_); }

  private:
    bool count(const Peer &peer);

    std::vector<Peer> peers_;
    std::unordered_set<Endpoint> endpoints_; ///< of those that are addresses
    std::size_t of_names_ = 0;               ///< so many ports of those that are host names
    bool is_full_ = false;                   ///< that has been said
    std::vector<Problem> &problems_;
};

/// A list that is one text.
std::vector<Peer> parse_peers(std::string_view text, const std::string &place,
                              std::vector<Problem> &problems);

} // namespace synergy
