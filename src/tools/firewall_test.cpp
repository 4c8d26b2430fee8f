#include "tools/firewall_test.h"

#include "settings/peer_list.h"
#include "tools/port_in_use.h"
#include "wire.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <sys/epoll.h>
#include <sys/random.h>
#include <system_error>

namespace synergy {

namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int message_version = 1;
/// A datagram of this size passes every path (RFC 8200 5: 1280 bytes with headers).
constexpr std::size_t message_most = 1200;
constexpr Duration between_messages = milliseconds(300);
constexpr Duration between_looks = milliseconds(100);
/// From the punch to the first call, so that both sides have punched.
constexpr Duration until_call = seconds(1);
/// Who says nothing for so long has gone away.
constexpr seconds patience{6};
/// How long both may go on telling what they have found.
constexpr Duration time_for_results = seconds(5);
constexpr Duration until_advice = seconds(10);
/// No punch is repeated: it is to be seen how long one lasts.
constexpr seconds no_refresh{3600};

std::string random_text() {
    std::uint64_t number = 0;
    if (getrandom(&number, sizeof number, 0) != sizeof number)
        throw std::system_error(errno, std::generic_category(), "getrandom");
    return fmt::format("{:016x}", number);
}

/// Nothing of it is believed but what fits.
std::string text_of(const Json &json, const char *key) {
    const auto found = json.find(key);
    return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::int64_t number_of(const Json &json, const char *key) {
    const auto found = json.find(key);
    return found != json.end() && found->is_number_integer() ? found->get<std::int64_t>() : -1;
}

/// An address as the other side writes it; empty if it is none.
Endpoint endpoint_of(const std::string &text) {
    std::vector<Problem> problems;
    const std::vector<Peer> peers = parse_peers(text, "", problems);
    return peers.size() == 1 && peers[0].host.empty() && problems.empty()
               ? peers[0].address.with_port(peers[0].first_port)
               : Endpoint{};
}

bool has_sctp() {
    return static_cast<bool>(Socket::open(AF_INET6, SOCK_STREAM, IPPROTO_SCTP)) ||
           static_cast<bool>(Socket::open(AF_INET, SOCK_STREAM, IPPROTO_SCTP));
}

} // namespace

bool FirewallTest::has_room_at(std::uint16_t port) {
    constexpr int end_of_bells = SYNERGY_FIRST_BELL_PORT + SYNERGY_BELL_PORTS;
    const int end = port + ports_used;
    return end <= UINT16_MAX + 1 && (end <= meeting_port || port >= end_of_bells);
}

FirewallTest::FirewallTest(Scheduler &scheduler, Options options,
                           std::function<void(const std::string &)> say)
    : scheduler_(scheduler), options_(std::move(options)), say_(std::move(say)),
      kept_out_(options_.peer.family()), nonce_(random_text()), idle_(options_.idle),
      no_traffic_(no_page_), means_{.scheduler = scheduler,
                                    .timers = timers_,
                                    .settings = settings_,
                                    .traffic = no_traffic_},
      sending_(scheduler), looking_(scheduler), waiting_(scheduler) {
    settings_.refresh = no_refresh;
    open_meeting(options_.port);
    if (options_.port != meeting_port)
        open_meeting(meeting_port);
    say_(fmt::format("waiting for the peer, which runs: synergy test '{}'",
                     options_.source.with_port(options_.port).text()));
    send();
    wait();
}

FirewallTest::~FirewallTest() {
    for (const Meeting &meeting : meetings_)
        scheduler_.unwatch(meeting.socket.fd());
}

void FirewallTest::open_meeting(std::uint16_t port) {
    Meeting &meeting = meetings_.emplace_back();
    meeting.peer = options_.peer.with_port(port);
    meeting.socket = Socket::open(options_.peer.family(), SOCK_DGRAM);
    const Endpoint local = options_.source.with_port(port);
    if (!meeting.socket || ::bind(meeting.socket.fd(), local.data(), local.length()) != 0)
        throw std::runtime_error(
            why_not_bound(errno, Transport::udp, local) +
            (port == meeting_port && port != options_.port
                 ? ""
                 : ": give another one at both ends, as " + meeting.peer.with_port(5000).text()));
    scheduler_.watch(meeting.socket.fd(), EPOLLIN,
                     [this, &meeting](std::uint32_t) { hear(meeting); });
}

std::string FirewallTest::message() const {
    Json json = {{"synergy test", message_version},
                 {"nonce", nonce_},
                 {"hears", peer_nonce_},
                 {"source", options_.source.with_port(options_.port).text()},
                 {"port", options_.port},
                 {"testing", phase_ != Phase::waiting},
                 {"done", phase_ == Phase::done},
                 {"sctp", has_sctp()},
                 {"has_results", peer_is_done_}};
    if (peer_seen_as_)
        json["sees"] = peer_seen_as_->text();
    for (const seconds time : idle_)
        json["idle"].push_back(time.count());
    for (const Trial &trial : trials_) {
        if (trial.outcome != Outcome::pending)
            json["calls"][name(trial.kind)] = name(trial.outcome);
        if (trial.is_called && trial.error != 0)
            json["not called"][name(trial.kind)] = trial.error;
    }
    return json.dump();
}

void FirewallTest::send() {
    const std::string text = message();
    // The meeting port only until it is known where the peer is heard.
    const bool is_any_heard = std::any_of(meetings_.begin(), meetings_.end(),
                                          [](const Meeting &meeting) { return meeting.is_heard; });
    for (const Meeting &meeting : meetings_)
        if (meeting.is_heard || !is_any_heard || phase_ == Phase::waiting) {
            const ssize_t sent = ::sendto(meeting.socket.fd(), text.data(), text.size(),
                                          MSG_NOSIGNAL, meeting.peer.data(), meeting.peer.length());
            if (sent < 0 && errno != ECONNREFUSED && errno != EAGAIN)
                say_once(fmt::format("this host can't send to {}: {}", meeting.peer.text(),
                                     strerrordesc_np(errno)));
        }
    sending_.set(Clock::now() + between_messages, [this] { send(); });
}

void FirewallTest::hear(Meeting &meeting) {
    std::array<char, message_most> data{};
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    auto *sender = reinterpret_cast<sockaddr *>(&address);
    const ssize_t size =
        ::recvfrom(meeting.socket.fd(), data.data(), data.size(), 0, sender, &length);
    if (size <= 0)
        return;
    const std::string text(data.data(), static_cast<std::size_t>(size));
    const Endpoint from = Endpoint::from(sender, length);
    if (from.same_address(meeting.peer)) {
        meeting.is_heard = true;
        if (from.port() != meeting.peer.port())
            meeting.peer = from; // its port was changed on the way
        heard(text, from);
    } else if (text.find("synergy test") != std::string::npos) {
        say_once(fmt::format("a test comes from {}, which is not the peer that was given ({}): run "
                             "synergy test '{}'",
                             from.address_text(), options_.peer.address_text(),
                             from.with_port(options_.port).text()));
    }
}

void FirewallTest::say_once(const std::string &line) {
    if (std::find(said_.begin(), said_.end(), line) != said_.end())
        return;
    said_.push_back(line);
    say_(line);
}

void FirewallTest::heard(const std::string &text, const Endpoint &from) {
    const Json json = Json::parse(text, nullptr, false);
    if (!json.is_object() || number_of(json, "synergy test") != message_version)
        return;
    const std::string nonce = text_of(json, "nonce");
    if (nonce.empty() || nonce == nonce_)
        return;
    const Time now = Clock::now();
    if (peer_nonce_.empty() || (nonce != peer_nonce_ && phase_ == Phase::waiting)) {
        peer_nonce_ = nonce;
        say_once("the peer is there");
    }
    if (nonce != peer_nonce_)
        return; // it was started anew in the middle: what was begun can't be finished
    last_heard_ = now;
    peer_seen_as_ = from;
    peer_source_ = endpoint_of(text_of(json, "source"));
    if (text_of(json, "hears") == nonce_)
        seen_as_ = endpoint_of(text_of(json, "sees"));
    const std::int64_t port = number_of(json, "port");
    if (port != options_.port) {
        say_once(fmt::format("the peer tests with port {}, and this side with {}: give both the "
                             "same",
                             port, options_.port));
        return;
    }
    const auto calls = json.find("calls");
    if (calls != json.end() && calls->is_object())
        for (const auto &[kind, outcome] : calls->items())
            if (outcome.is_string() && peer_calls_.size() < message_most)
                peer_calls_[kind] = outcome_of(outcome.get<std::string>());
    hear_what_is_not_called(json);
    const auto is = [&](const char *key) {
        const auto found = json.find(key);
        return found != json.end() && found->is_boolean() && found->get<bool>();
    };
    peer_is_done_ = is("done");
    peer_has_results_ = is("has_results");
    peer_has_sctp_ = is("sctp");
    if (phase_ != Phase::waiting || !seen_as_)
        return;
    // The side with the lower number leads: the other begins when it has.
    const bool leads = nonce_ < peer_nonce_;
    if (!leads && !is("testing"))
        return;
    if (!leads) {
        idle_.clear();
        const auto idle = json.find("idle");
        if (idle != json.end() && idle->is_array())
            for (const Json &time : *idle)
                if (time.is_number_unsigned() && time.get<std::uint64_t>() <= idle_most)
                    idle_.emplace_back(time.get<seconds::rep>());
    }
    begin();
}

/// What of the peer's has no socket there: whoever answers at that port is another.
void FirewallTest::hear_what_is_not_called(const Json &json) {
    for (Trial &trial : trials_) {
        if (trial.is_called || !json.contains("not called") || !json["not called"].is_object())
            continue;
        const std::int64_t error = number_of(json["not called"], name(trial.kind).c_str());
        if (error <= 0)
            continue;
        trial.outcome = Outcome::failed;
        say_once(fmt::format("{}: the peer can't be called: {} port {} is {} there",
                             name(trial.kind), name(trial.kind.transport), trial.port,
                             error == EADDRINUSE ? "in use" : "not to be had"));
    }
}

/// What is said to who waits for long: everything that is the same from inside.
void FirewallTest::wait() {
    waiting_.set(Clock::now() + until_advice, [this] {
        if (phase_ != Phase::waiting)
            return;
        if (peer_nonce_.empty())
            say_once(fmt::format(
                "nothing has come from {} for {} s: is the test running there, by the line above, "
                "and does it send from that very address? Does a firewall let no UDP out at the "
                "peer's side (its own first lines tell), or nothing in on this host?",
                options_.peer.address_text(),
                std::chrono::duration_cast<seconds>(until_advice).count()));
        else if (!seen_as_)
            say_once("this side hears the peer, and the peer does not hear this side: a firewall "
                     "on the peer's host (INPUT) or before it drops even answers");
        wait();
    });
}

void FirewallTest::begin() {
    phase_ = Phase::testing;
    begun_ = Clock::now();
    idle_.resize(std::min(idle_.size(), idle_times_most));
    const bool is_first = nonce_ < peer_nonce_;
    std::uint16_t slot = options_.port;
    std::vector<Transport> transports{Transport::udp, Transport::tcp};
    if (has_sctp() && peer_has_sctp_)
        transports.push_back(Transport::sctp);
    const auto add = [&](TrialKind kind, std::uint16_t port, bool is_called) {
        Trial &trial = trials_.emplace_back();
        trial.kind = kind;
        trial.is_called = is_called;
        trial.port = port;
        const TrialWay way{.source = options_.source.with_port(port),
                           .peer = options_.peer.with_port(port),
                           .hop_limit = options_.hop_limit,
                           .dying_hop = options_.dying_hop};
        try {
            if (is_called) {
                trial.callee = make_callee(means_, kind, way);
                trial.callee->punch();
                return;
            }
        } catch (const std::system_error &error) {
            has_no_socket(trial, error);
            return;
        }
        calls_.emplace_back(scheduler_).set(begun_ + until_call + kind.idle, [this, &trial, way] {
            if (trial.outcome == Outcome::failed)
                return;
            try {
                trial.caller = make_caller(scheduler_, trial.kind, way);
            } catch (const std::system_error &error) {
                has_no_socket(trial, error);
            }
        });
    };
    const auto both_ways = [&](TrialKind kind, std::uint16_t port) {
        add(kind, port, is_first);
        add(kind, static_cast<std::uint16_t>(port + 1), !is_first);
    };
    slot++;
    for (const Transport transport : transports)
        both_ways({.transport = transport}, slot);
    slot = static_cast<std::uint16_t>(slot + 2);
    add({.transport = Transport::tcp, .both_call = true}, slot++, false);
    for (const seconds time : idle_) {
        for (const Transport transport : {Transport::udp, Transport::tcp})
            both_ways({.transport = transport, .idle = time}, slot);
        slot = static_cast<std::uint16_t>(slot + 2);
    }
    const seconds longest =
        idle_.empty() ? seconds(0) : *std::max_element(idle_.begin(), idle_.end());
    say_(fmt::format(
        "both sides hear each other: testing, for {} s",
        std::chrono::duration_cast<seconds>(longest + until_call + call_patience).count()));
    look();
}

void FirewallTest::has_no_socket(Trial &trial, const std::system_error &error) {
    trial.outcome = Outcome::failed;
    trial.error = error.code().value();
    say_once(fmt::format(
        "{}: {}", name(trial.kind),
        why_not_bound(trial.error, trial.kind.transport, options_.source.with_port(trial.port))));
}

void FirewallTest::look() {
    const Time now = Clock::now();
    bool is_pending = false;
    for (Trial &trial : trials_) {
        if (trial.caller && trial.outcome == Outcome::pending)
            trial.outcome = trial.caller->outcome();
        is_pending |= !trial.is_called && trial.outcome == Outcome::pending;
    }
    if (!is_pending && phase_ == Phase::testing) {
        phase_ = Phase::done;
        done_at_ = now;
    }
    if (now - last_heard_ > patience) {
        say_once(
            fmt::format("the peer has gone away: it was not heard for {} s", patience.count()));
        phase_ = Phase::over;
        return;
    }
    // The last one to tell is not told that it was heard: it goes on for a while.
    if (phase_ == Phase::done && peer_is_done_ &&
        (peer_has_results_ || now - done_at_ > time_for_results)) {
        send();
        send();
        phase_ = Phase::over;
        return;
    }
    looking_.set(now + between_looks, [this] { look(); });
}

TestReport FirewallTest::report() const {
    TestReport report;
    report.peer = options_.peer;
    report.source = options_.source;
    report.port = options_.port;
    report.hop_limit = options_.hop_limit;
    report.router = options_.dying_hop ? options_.dying_hop->from : Endpoint{};
    report.seen_as = seen_as_;
    report.peer_seen_as = peer_seen_as_;
    report.peer_source = peer_source_;
    report.kept_out = kept_out_.by_firewall();
    report.is_over = phase_ == Phase::over && peer_is_done_;
    for (const Trial &trial : trials_) {
        auto row = std::find_if(report.rows.begin(), report.rows.end(),
                                [&](const auto &each) { return each.kind == trial.kind; });
        if (row == report.rows.end()) {
            const auto theirs = peer_calls_.find(name(trial.kind));
            row = report.rows.insert(row, {.kind = trial.kind});
            row->peer_calls = theirs != peer_calls_.end() ? theirs->second : Outcome::pending;
        }
        if (!trial.is_called)
            row->this_side_calls = trial.outcome;
        else if (trial.error != 0)
            row->peer_calls = Outcome::failed;
    }
    return report;
}

} // namespace synergy
