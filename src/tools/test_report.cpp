#include "tools/test_report.h"

#include <fmt/format.h>

#include <algorithm>

namespace synergy {

namespace {

using std::chrono::seconds;

/// By default holes are renewed as often; a firewall that forgets earlier needs a setting.
seconds default_refresh() {
    return Settings{}.refresh;
}

struct Side {
    const char *whose;  ///< firewall
    const char *caller; ///< who calls in through it
    Outcome TestReport::Row::*outcome;
};
/// The hole in this side's firewall is what the peer calls through.
constexpr Side this_side{"this side's", "the peer", &TestReport::Row::peer_calls};
constexpr Side other_side{"the peer's", "this side", &TestReport::Row::this_side_calls};

Outcome find(const TestReport &report, const Side &side, const TrialKind &kind) {
    for (const TestReport::Row &row : report.rows)
        if (row.kind == kind)
            return row.*side.outcome;
    return Outcome::pending;
}

bool is_bad(Outcome outcome) {
    return outcome != Outcome::passes && outcome != Outcome::pending && outcome != Outcome::failed;
}

std::string upper(Transport transport) {
    std::string text = name(transport);
    for (char &c : text)
        c = static_cast<char>(c - 'a' + 'A');
    return text;
}

/// What is said of one transport through one side's firewall, where calls pass at once.
void say_how_long(const TestReport &report, const Side &side, Transport transport,
                  std::vector<std::string> &said) {
    seconds lasts{0};
    std::optional<seconds> ends;
    for (const TestReport::Row &row : report.rows) {
        if (row.kind.transport != transport || row.kind.both_call)
            continue;
        if (row.*side.outcome == Outcome::passes)
            lasts = std::max(lasts, row.kind.idle);
        else if (is_bad(row.*side.outcome) && row.kind.idle > seconds(0))
            ends = ends ? std::min(*ends, row.kind.idle) : row.kind.idle;
    }
    if (!ends && lasts > seconds(0)) {
        said.push_back(fmt::format("{}: {} firewall keeps a hole that nobody answers for {} s or "
                                   "longer",
                                   upper(transport), side.whose, lasts.count()));
    } else if (ends) {
        std::string line =
            fmt::format("{}: {} firewall forgets a hole that nobody answers after {} "
                        "to {} s",
                        upper(transport), side.whose, lasts.count(), ends->count());
        // One renewal may be lost.
        if (lasts < 2 * default_refresh())
            line += fmt::format(": SYNERGY_REFRESH={} there",
                                std::max<seconds::rep>(1, std::max(*ends / 3, lasts / 2).count()));
        said.push_back(line);
    }
}

void say_of(const TestReport &report, const Side &side, std::vector<std::string> &said) {
    const Outcome udp = find(report, side, {.transport = Transport::udp});
    const Outcome tcp = find(report, side, {.transport = Transport::tcp});
    const std::string setting = side.outcome == this_side.outcome
                                    ? fmt::format("SYNERGY_HOPS={}", report.hop_limit)
                                    : std::string("its SYNERGY_HOPS");
    for (const auto &[outcome, transport] :
         {std::pair(udp, Transport::udp), std::pair(tcp, Transport::tcp)}) {
        if (outcome == Outcome::refused)
            said.push_back(fmt::format("{}: {}'s call was refused: {} hop limit is too high, or a "
                                       "firewall answers what it "
                                       "drops: try {} lower",
                                       upper(transport), side.caller, side.whose, setting));
        else if (outcome == Outcome::prohibited)
            said.push_back(fmt::format("{}: a firewall says that it forbids {}'s call",
                                       upper(transport), side.caller));
        else if (outcome == Outcome::passes)
            say_how_long(report, side, transport, said);
    }
    if (udp == Outcome::passes && tcp == Outcome::timed_out)
        said.push_back(
            fmt::format("TCP: {} firewall lets UDP in and not TCP: it refuses "
                        "simultaneous open, which RFC 5382 REQ-2 asks of it. Serve by UDP "
                        "there, or let the other side be the server{}",
                        side.whose,
                        side.outcome == this_side.outcome && report.kept_out > 0
                            ? fmt::format(". (Or it is the one on this host, which has kept out "
                                          "{} packets meanwhile: INPUT)",
                                          report.kept_out)
                            : ""));
    if (udp == Outcome::timed_out && tcp == Outcome::timed_out)
        said.push_back(fmt::format("nothing passes {} firewall: punches die before it ({} higher), "
                                   "or it keeps no state of what goes out",
                                   side.whose, setting));
    if (udp == Outcome::timed_out && tcp == Outcome::passes)
        said.push_back(fmt::format("UDP: {} firewall lets TCP in and not UDP", side.whose));
}

} // namespace

bool TestReport::works() const {
    return std::any_of(rows.begin(), rows.end(), [](const Row &row) {
        return row.peer_calls == Outcome::passes || row.this_side_calls == Outcome::passes;
    });
}

std::vector<std::string> findings(const TestReport &report) {
    std::vector<std::string> said;
    if (report.seen_as && !report.seen_as->same_address(report.source))
        said.push_back(fmt::format("this side's address is translated (NAT): the peer sees {} and "
                                   "not {}; peers must declare {}, and ports may change on the way",
                                   report.seen_as->address_text(), report.source.address_text(),
                                   report.seen_as->address_text()));
    if (report.peer_seen_as && !report.peer_source.empty() &&
        !report.peer_seen_as->same_address(report.peer_source))
        said.push_back(fmt::format("the peer's address is translated (NAT): this side sees {} and "
                                   "not {}",
                                   report.peer_seen_as->address_text(),
                                   report.peer_source.address_text()));
    if (!report.seen_as && report.peer_seen_as)
        said.emplace_back("this side hears the peer, and the peer does not hear this side: a "
                          "firewall on the peer's host or before it drops even answers");
    if (report.is_over) {
        say_of(report, this_side, said);
        say_of(report, other_side, said);
    }
    return said;
}

std::vector<std::string> report_picture(const TestReport &report) {
    constexpr std::size_t width = 18;
    std::vector<std::string> lines;
    lines.push_back(
        fmt::format("{:{}}{:{}}{}", "", width, "the peer calls", width, "this side calls"));
    for (const TestReport::Row &row : report.rows)
        lines.push_back(fmt::format("{:{}}{:{}}{}", name(row.kind), width, name(row.peer_calls),
                                    width, name(row.this_side_calls)));
    lines.emplace_back();
    for (const std::string &line : findings(report))
        lines.push_back(line);
    return lines;
}

} // namespace synergy
