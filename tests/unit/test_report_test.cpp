// What the outcomes of `synergy test` are said to mean.
#include "tools/test_report.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <arpa/inet.h>

using namespace synergy;
using std::chrono::seconds;

namespace {

Endpoint at(const char *address) {
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    inet_pton(AF_INET6, address, &in6.sin6_addr);
    return Endpoint::from(reinterpret_cast<sockaddr *>(&in6), sizeof in6);
}

/// All was tried and passed.
TestReport good() {
    TestReport report;
    report.source = at("2001:db8::11");
    report.peer = at("2001:db8:1::5");
    report.seen_as = report.source;
    report.peer_seen_as = report.peer_source = report.peer;
    report.is_over = true;
    for (const Transport transport : {Transport::udp, Transport::tcp})
        for (const seconds idle : {seconds(0), seconds(10), seconds(30), seconds(60)})
            report.rows.push_back({.kind = {.transport = transport, .idle = idle},
                                   .peer_calls = Outcome::passes,
                                   .this_side_calls = Outcome::passes});
    return report;
}

TestReport::Row &row(TestReport &report, Transport transport, seconds idle = seconds(0)) {
    return *std::find_if(report.rows.begin(), report.rows.end(), [&](const auto &each) {
        return each.kind == TrialKind{.transport = transport, .idle = idle};
    });
}

bool says(const TestReport &report, const std::string &what) {
    const auto lines = findings(report);
    return std::any_of(lines.begin(), lines.end(), [&](const std::string &line) {
        return line.find(what) != std::string::npos;
    });
}

} // namespace

TEST_CASE("where all passes only the timers are said") {
    const TestReport report = good();
    CHECK(report.works());
    CHECK(findings(report).size() == 4);
    CHECK(says(report, "UDP: this side's firewall keeps a hole that nobody answers for 60 s"));
    CHECK(says(report, "TCP: the peer's firewall keeps a hole that nobody answers for 60 s"));
}

TEST_CASE("a refresh that comes in time is proposed where the usual one does not") {
    TestReport report = good();
    for (const seconds idle : {seconds(30), seconds(60)})
        row(report, Transport::udp, idle).peer_calls = Outcome::timed_out;
    CHECK(says(report, "UDP: this side's firewall forgets a hole that nobody answers after 10 to "
                       "30 s: SYNERGY_REFRESH=10 there"));
    row(report, Transport::udp, seconds(10)).peer_calls = Outcome::timed_out;
    CHECK(says(report, "after 0 to 10 s: SYNERGY_REFRESH=3 there"));
    TestReport later = good();
    row(later, Transport::udp, seconds(60)).peer_calls = Outcome::timed_out;
    CHECK(says(later, "forgets a hole that nobody answers after 30 to 60 s"));
    CHECK_FALSE(says(later, "SYNERGY_REFRESH"));
}

TEST_CASE("whose firewall it is") {
    TestReport report = good();
    row(report, Transport::tcp).this_side_calls = Outcome::timed_out;
    CHECK(says(report, "TCP: the peer's firewall lets UDP in and not TCP"));
    CHECK_FALSE(says(report, "TCP: this side's firewall lets UDP in"));
}

TEST_CASE("a reset, a prohibition and silence are three things") {
    TestReport report = good();
    row(report, Transport::tcp).peer_calls = Outcome::refused;
    CHECK(says(report, "TCP: the peer's call was refused: this side's hop limit is too high"));
    row(report, Transport::tcp).peer_calls = Outcome::prohibited;
    CHECK(says(report, "TCP: a firewall says that it forbids the peer's call"));
    row(report, Transport::tcp).peer_calls = Outcome::timed_out;
    row(report, Transport::udp).peer_calls = Outcome::timed_out;
    CHECK(says(report, "nothing passes this side's firewall"));
    CHECK(report.works());
}

TEST_CASE("translated addresses") {
    TestReport report = good();
    CHECK_FALSE(says(report, "NAT"));
    report.seen_as = at("2001:db8::99");
    CHECK(says(report, "this side's address is translated (NAT): the peer sees 2001:db8::99 and "
                       "not 2001:db8::11"));
    report.peer_source = at("fd00::5");
    CHECK(says(report, "the peer's address is translated (NAT): this side sees 2001:db8:1::5 and "
                       "not fd00::5"));
}

TEST_CASE("nothing is concluded from what was not tried") {
    TestReport report = good();
    report.is_over = false;
    CHECK(findings(report).empty());
    for (auto &each : report.rows)
        each.peer_calls = each.this_side_calls = Outcome::failed;
    report.is_over = true;
    CHECK(findings(report).empty());
    CHECK_FALSE(report.works());
}

TEST_CASE("outcomes have names that the other side understands") {
    for (const Outcome outcome : {Outcome::passes, Outcome::timed_out, Outcome::refused,
                                  Outcome::prohibited, Outcome::failed})
        CHECK(outcome_of(name(outcome)) == outcome);
    CHECK(outcome_of("anything else") == Outcome::pending);
}
