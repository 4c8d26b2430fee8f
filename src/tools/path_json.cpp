#include "tools/path_json.h"

#include <nlohmann/json.hpp>

#include <cstring>

namespace synergy {

namespace {

using Json = nlohmann::ordered_json;

Json hop_json(const Hop &hop, const Names &names) {
    Json json = {{"hop", hop.limit}, {"answer", name(hop.answer)}};
    if (hop.answer == HopAnswer::none)
        return json;
    const std::string address = hop.from.address_text();
    json["address"] = address;
    if (const auto found = names.find(address); found != names.end())
        json["name"] = found->second;
    json["rtt_ms"] = static_cast<double>(hop.round_trip.count()) / 1000;
    json["probe"] = name(hop.by);
    return json;
}

} // namespace

std::string path_json(const Path &path, const HopChoice &choice, const Names &names) {
    Json json = {{"peer", path.peer.address_text()}};
    if (!path.source.empty())
        json["source"] = path.source.address_text();
    json["on_link"] = path.on_link;
    json["hops"] = Json::array();
    for (const Hop &hop : path.hops)
        json["hops"].push_back(hop_json(hop, names));
    json["hop_limit"] = choice.hops;
    json["found"] = choice.is_found;
    json["reason"] = choice.reason;
    if (path.error != 0)
        json["error"] = std::strerror(path.error);
    // A host name may hold any bytes.
    return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

} // namespace synergy
