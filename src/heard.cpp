#include "heard.h"

namespace synergy {

Heard &Heard::get() {
    static auto *heard = new Heard;
    return *heard;
}

std::uint64_t Heard::key(int fd, const Endpoint &peer) {
    std::uint64_t hash = std::hash<Endpoint>{}(peer) + static_cast<std::uint64_t>(fd);
    return hash * 0x9e3779b97f4a7c15U; // 2^64 / golden ratio: spreads what differs in few bits
}

void Heard::note(int fd, const Endpoint &peer, Time now) {
    std::uint64_t k = key(fd, peer);
    auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now.time_since_epoch()).count();
    places_[k % places_.size()].store(
        (k & 0xffffffff00000000U) | static_cast<std::uint32_t>(seconds), std::memory_order_relaxed);
}

std::optional<Time> Heard::last(int fd, const Endpoint &peer) const {
    std::uint64_t k = key(fd, peer);
    std::uint64_t place = places_[k % places_.size()].load(std::memory_order_relaxed);
    if (place == 0 || (place >> 32) != (k >> 32))
        return std::nullopt;
    return Time(std::chrono::seconds(place & 0xffffffffU));
}

} // namespace synergy
