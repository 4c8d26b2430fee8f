#include "settings/peer_list.h"

#include "settings/settings_text.h"

namespace synergy {

using namespace expected;

namespace {

constexpr Expected too_many =
    "4096 addresses and ports at most in all; what has no room is left out";

} // namespace

void PeerList::add(std::string_view text, const std::string &place) {
    bool is_any = text.empty(); // which is as good as none
    for_each_entry(text, [&](std::string_view entry) {
        is_any = true;
        Peer peer;
        Expected expected = parse_peer(entry, peer);
        if (expected == nullptr && count(peer)) {
            peers_.push_back(peer);
            return;
        }
        // Whoever lists a thousand too many has made one mistake.
        if (expected == nullptr && std::exchange(is_full_, true))
            return;
        problems_.push_back({place, std::string(entry), expected != nullptr ? expected : too_many});
    });
    if (!is_any)
        problems_.push_back({place, std::string(text), some_peers});
}

/// Whether there is room for what this peer adds to the endpoints of those before.
bool PeerList::count(const Peer &peer) {
    const auto size = static_cast<std::size_t>(peer.last_port - peer.first_port) + 1;
    if (size > targets_max)
        return false;
    if (!peer.host.empty()) {
        // Whatever its addresses are, targets_for() goes no further.
        if (endpoints_.size() + of_names_ + size > targets_max)
            return false;
        of_names_ += size;
        return true;
    }
    std::vector<Endpoint> added;
    for (std::size_t i = 0; i < size; ++i) {
        const Endpoint endpoint =
            peer.address.with_port(static_cast<std::uint16_t>(peer.first_port + i));
        if (!endpoints_.contains(endpoint))
            added.push_back(endpoint);
    }
    if (endpoints_.size() + of_names_ + added.size() > targets_max)
        return false;
    endpoints_.insert(added.begin(), added.end());
    return true;
}

std::vector<Peer> parse_peers(std::string_view text, const std::string &place,
                              std::vector<Problem> &problems) {
    PeerList peers(problems);
    peers.add(text, place);
    return peers.take();
}

} // namespace synergy
