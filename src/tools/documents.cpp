#include "tools/documents.h"

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

std::string report_json(const TestReport &report) {
    const auto address = [](const std::optional<Endpoint> &endpoint) {
        return endpoint && !endpoint->empty() ? Json(endpoint->address_text()) : Json(nullptr);
    };
    Json json = {{"peer", report.peer.address_text()},
                 {"source", report.source.address_text()},
                 {"port", report.port},
                 {"hop_limit", report.hop_limit},
                 {"router", address(report.router)},
                 {"seen_as", address(report.seen_as)},
                 {"peer_seen_as", address(report.peer_seen_as)},
                 {"complete", report.is_over},
                 {"trials", Json::array()},
                 {"findings", findings(report)}};
    for (const TestReport::Row &row : report.rows)
        json["trials"].push_back({{"transport", name(row.kind.transport)},
                                  {"idle_s", row.kind.idle.count()},
                                  {"both_call", row.kind.both_call},
                                  {"peer_calls", name(row.peer_calls)},
                                  {"this_side_calls", name(row.this_side_calls)}});
    return json.dump(2);
}

std::string findings_json(bool is_ok, const std::vector<Finding> &findings) {
    Json json = {{"ok", is_ok}, {"findings", Json::array()}};
    for (const Finding &each : findings)
        json["findings"].push_back({{"wrong", each.is_wrong}, {"text", each.text}});
    // A host name or a path may hold any bytes.
    return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

} // namespace synergy
