// What other programs read of `--json`.
#include "tools/documents.h"

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <cerrno>
#include <sys/socket.h>

using namespace synergy;
using Json = nlohmann::json;

TEST_CASE("a path") {
    Path path;
    path.peer = path.source = Endpoint::loopback(AF_INET6, 0);
    Hop &answering = path.hops.emplace_back();
    answering.limit = 1;
    answering.answer = HopAnswer::refused;
    answering.from = path.peer;
    answering.by = Transport::udp;
    answering.round_trip = std::chrono::microseconds(1500);
    Hop &silent = path.hops.emplace_back();
    silent.limit = 2;
    const HopChoice choice{.hops = 2, .is_found = true, .reason = "why \"so\""};
    const Json json = Json::parse(path_json(path, choice, {{"::1", "n\xff"}}));
    CHECK(json == Json::parse(R"({
        "peer": "::1", "source": "::1", "on_link": false,
        "hops": [
            {"hop": 1, "answer": "refused", "address": "::1", "name": "n\ufffd", "rtt_ms": 1.5,
             "probe": "udp"},
            {"hop": 2, "answer": "none"}
        ],
        "hop_limit": 2, "found": true, "reason": "why \"so\""
    })"));

    path = Path();
    path.peer = Endpoint::loopback(AF_INET, 0);
    path.error = ENETUNREACH;
    const Json failed = Json::parse(path_json(path, HopChoice{}, {}));
    CHECK(failed["error"] == "Network is unreachable");
    CHECK(failed["hops"] == Json::array());
    CHECK_FALSE(failed.contains("source"));
}

TEST_CASE("what two sides have tried") {
    TestReport report;
    report.source = Endpoint::loopback(AF_INET6, 0);
    report.peer = report.source;
    report.seen_as = report.peer_seen_as = report.peer_source = report.source;
    report.is_over = true;
    for (const Transport transport : {Transport::udp, Transport::tcp})
        for (const int idle : {0, 10, 30, 60})
            report.rows.push_back(
                {.kind = {.transport = transport, .idle = std::chrono::seconds(idle)},
                 .peer_calls = Outcome::passes,
                 .this_side_calls = Outcome::passes});
    const Json json = Json::parse(report_json(report));
    CHECK(json["complete"] == true);
    CHECK(json["trials"].size() == 8);
    CHECK(json["trials"][1]["idle_s"] == 10);
    CHECK(json["router"].is_null());
    CHECK(json["findings"].size() == findings(report).size());
    CHECK(json["findings"].size() == 4);
}
