#include "keeper/expected_peers.h"

#include <algorithm>
#include <cerrno>

namespace synergy {

namespace {

/// Sockets that may listen one day.
constexpr std::size_t sockets_max = 4096;

} // namespace

int ExpectedPeers::add(std::uint64_t cookie, const Target &target) {
    if (expected_.size() >= sockets_max && !expected_.contains(cookie))
        return ENOSPC;
    std::vector<Target> &targets = expected_[cookie];
    if (std::find(targets.begin(), targets.end(), target) != targets.end())
        return 0;
    if (targets.size() >= targets_max)
        return ENOSPC;
    targets.push_back(target);
    return 0;
}

std::vector<Target> ExpectedPeers::of(std::uint64_t cookie) const {
    const auto found = expected_.find(cookie);
    return found == expected_.end() ? std::vector<Target>{} : found->second;
}

} // namespace synergy
