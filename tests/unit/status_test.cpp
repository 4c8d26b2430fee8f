// What `synergy status` says of a hole, and how it is shown.
#include "keeper/status.h"
#include "tools/status_picture.h"

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <arpa/inet.h>
#include <fcntl.h>
#include <unistd.h>

using namespace synergy;
using std::chrono::seconds;
using Json = nlohmann::ordered_json;

namespace {

Endpoint v6(const char *address, std::uint16_t port) {
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    inet_pton(AF_INET6, address, &in6.sin6_addr);
    return Endpoint::from(reinterpret_cast<sockaddr *>(&in6), sizeof in6).with_port(port);
}

/// The document's one hole.
Json described(const HoleRecord &record, Transport transport = Transport::tcp,
               bool is_in_use = false) {
    static synergy_page page{};
    const Traffic traffic(page);
    SocketDiag socket_diag;
    ServerSocket server;
    server.transport = transport;
    server.local = v6("2001:db8::11", 4444);
    const Hole hole{.server = server, .peer = v6("2001:db8:1::5", 5555), .hops = HopRange::only(3)};
    std::vector<SocketStatus> sockets;
    sockets.push_back({.socket = server, .holes = {}, .unpunched = {}});
    sockets[0].holes.push_back({.hole = hole,
                                .record = record,
                                .source = v6("2001:db8::11", 0),
                                .router = {},
                                .is_in_use = is_in_use});
    const Json document = Json::parse(status_document(sockets, {7}, socket_diag, traffic));
    CHECK(document["processes"] == Json::array({7}));
    return document["sockets"][0]["holes"][0];
}

HoleRecord punched(seconds first, seconds last) {
    HoleRecord record;
    record.first_punched = Clock::now() - first;
    record.punched = Clock::now() - last;
    record.hop_limit = 3;
    return record;
}

bool shows(const std::vector<std::string> &lines, const std::string &what) {
    return std::any_of(lines.begin(), lines.end(), [&](const std::string &line) {
        return line.find(what) != std::string::npos;
    });
}

} // namespace

TEST_CASE("what has not been punched yet is opening") {
    const Json hole = described({});
    CHECK(hole["state"] == "opening");
    CHECK(hole["last_punch_s"].is_null());
}

TEST_CASE("a peer that has not come for a minute is silent") {
    CHECK(described(punched(seconds(59), seconds(2)))["state"] == "open");
    const Json hole = described(punched(seconds(61), seconds(2)));
    CHECK(hole["state"] == "silent");
    CHECK(hole["last_punch_s"].get<double>() == doctest::Approx(2).epsilon(0.1));
    HoleRecord heard = punched(seconds(300), seconds(2));
    heard.heard = Clock::now() - seconds(200);
    CHECK(described(heard)["state"] == "open");
}

TEST_CASE("a hop limit was too high until punches go less far") {
    HoleRecord record = punched(seconds(5), seconds(1));
    record.refused_at = 3;
    CHECK(described(record)["state"] == "refused");
    CHECK(described(record)["refused_at"] == 3);
    record.hop_limit = 2;
    CHECK(described(record)["state"] == "open");
}

TEST_CASE("what a punch fails of is said") {
    HoleRecord record = punched(seconds(5), seconds(1));
    record.error = ENETUNREACH;
    record.cause = "this host has no route to it";
    CHECK(described(record)["state"] == "failing");
    CHECK(described(record)["error"] == "this host has no route to it");
}

TEST_CASE("UDP has no connections to count") {
    CHECK_FALSE(described(punched(seconds(5), seconds(1)), Transport::udp).contains("connections"));
    HoleRecord record = punched(seconds(5), seconds(1));
    record.heard = Clock::now() - seconds(3);
    CHECK(described(record, Transport::udp)["state"] == "connected");
}

TEST_CASE("what nobody has any more rests") {
    HoleRecord record = punched(seconds(5), seconds(1));
    record.connections = record.handed_over = 1;
    CHECK(described(record, Transport::tcp, true)["state"] == "resting");
}

TEST_CASE("what another user's keeper says reaches no terminal as it is") {
    const Json status = Json::parse(R"({"without_keeper": [], "keepers": [{"pid": 1, "user": 2,
        "processes": [{"pid": 3, "program": "a\u001b[2Jb"}],
        "sockets": [{"protocol": "tcp", "local": "[::]:1", "without_hole": [], "holes": [
            {"peer": "x\u001b]0;y\u0007", "source": null, "hop_limit": 3, "router": null,
             "state": "refused", "refused_at": 3, "last_punch_s": 4.9, "last_sign_s": null}]}]}]})");
    const auto lines = status_picture(status, {});
    CHECK_FALSE(shows(lines, "\x1b"));
    CHECK_FALSE(shows(lines, "\a"));
    CHECK(shows(lines, "a\\x1b[2Jb (pid 3), user 2, kept by pid 1"));
    CHECK(shows(lines, "refused at hop 3  4 s"));
}

TEST_CASE("a file in memory can't be changed any more") {
    const Socket file = in_memory("abc");
    REQUIRE(file);
    char content[8];
    CHECK(pread(file.fd(), content, sizeof content, 0) == 3);
    CHECK(pwrite(file.fd(), "x", 1, 0) == -1);
    CHECK(ftruncate(file.fd(), 0) == -1);
}
