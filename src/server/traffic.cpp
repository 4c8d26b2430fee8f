#include "server/traffic.h"

#include <cstring>

namespace synergy {

synergy_endpoint wire_endpoint(const Endpoint &endpoint) {
    synergy_endpoint wire{};
    std::memcpy(&wire, endpoint.data(), endpoint.length());
    return wire;
}

void Traffic::punched() const {
    const auto now = std::chrono::floor<std::chrono::seconds>(Clock::now().time_since_epoch());
    __atomic_store_n(&page_.punched, static_cast<std::uint32_t>(now.count()), __ATOMIC_RELAXED);
}

std::optional<Time> Traffic::last(synergy_way way, std::uint64_t cookie,
                                  const Endpoint &peer) const {
    const synergy_endpoint wire = wire_endpoint(peer);
    const synergy_place place = synergy_place_of(way, cookie, &wire);
    const std::uint64_t noted = __atomic_load_n(&page_.traffic[place.number], __ATOMIC_RELAXED);
    if (noted == 0 || noted != synergy_traffic(place.mark, static_cast<std::uint32_t>(noted)))
        return std::nullopt;
    return Time(std::chrono::seconds(static_cast<std::uint32_t>(noted)));
}

} // namespace synergy
