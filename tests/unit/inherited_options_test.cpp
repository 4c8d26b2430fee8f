#include "server/inherited_options.h"

#include "harness.h"
#include "punch/beside.h"
#include "server/inimitable.h"
#include "server/server_socket.h"
#include "server/tcp_keys.h"

#include <doctest/doctest.h>

#include <arpa/inet.h>
#include <cstring>
#include <linux/in6.h>
#include <linux/tcp.h>
#include <map>
#include <netinet/in.h>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

using namespace synergy;
using std::chrono::milliseconds;

namespace {

/// Of which families a listener and its peer are.
struct Kind {
    const char *what;
    int listener;
    int peer;
};
constexpr Kind kinds[] = {
    {"IPv4", AF_INET, AF_INET}, {"IPv6", AF_INET6, AF_INET6}, {"v4-mapped", AF_INET6, AF_INET}};

constexpr int levels[] = {SOL_SOCKET, IPPROTO_TCP, IPPROTO_IP, IPPROTO_IPV6};
/// Beyond what the kernel has today, so that what comes is met too. (From 64 on netfilter's are
/// among those of IP.)
int end_of(int level) {
    return level == IPPROTO_IP ? 64 : 110;
}

/// What a connection says of itself and of its moment, not of its listener.
bool is_own_affair(int level, int name) {
    switch (level) {
    case SOL_SOCKET:
        return name == SO_ERROR || name == SO_INCOMING_CPU || name == SO_INCOMING_NAPI_ID ||
               name == SO_COOKIE || name == SO_MEMINFO || name == SO_PEERNAME;
    case IPPROTO_TCP:
        return name == TCP_INFO || name == TCP_CC_INFO || name == TCP_TIMESTAMP ||
               name == TCP_ZEROCOPY_RECEIVE || name == TCP_SAVED_SYN ||
               name == TCP_FASTOPEN_CONNECT;
    case IPPROTO_IP:
        // Taken from the peer's SYN. 52 is IP_PROTOCOL: for a TCP socket its port.
        return name == IP_MTU || name == IP_MULTICAST_IF || name == IP_MULTICAST_TTL ||
               name == IP_PKTOPTIONS || name == IP_MSFILTER || name == MCAST_MSFILTER || name == 52;
    default:
        // Netfilter's, from 64 to 66 and 80, are asked of by other numbers.
        return name == IPV6_MTU || name == IPV6_PATHMTU || name == IPV6_MULTICAST_IF ||
               name == IPV6_MULTICAST_HOPS || name == IPV6_2292PKTOPTIONS || name == 64 ||
               name == 65 || name == 80 || name == 81;
    }
}

/// The punches need these as they are.
bool makes_room(int level, int name) {
    return level == SOL_SOCKET && (name == SO_REUSEADDR || name == SO_REUSEPORT);
}

/// A listener that is about to be moved to another machine serves nobody.
bool is_for_checkpoints(int level, int name) {
    return level == IPPROTO_TCP && name == TCP_REPAIR;
}

/// Which the first SYN brings about: of a listener that was given it after the last look at it, no
/// connection tells. (The size of the send buffer begins as the congestion control wants it, and
/// the window as the receive buffer.)
bool counts_at_first(int level, int name) {
    return (level == IPPROTO_TCP && (name == TCP_MAXSEG || name == TCP_FASTOPEN_NO_COOKIE ||
                                     name == TCP_CONGESTION || name == TCP_WINDOW_CLAMP)) ||
           (level == SOL_SOCKET &&
            (name == SO_RCVBUF || name == SO_RCVBUFFORCE || name == SO_RCVLOWAT));
}

/// As bytes, or what error the question is.
std::string value_of(int fd, int level, int name) {
    char bytes[64]{};
    socklen_t length = sizeof bytes;
    if (getsockopt(fd, level, name, bytes, &length) != 0)
        return std::string("error ") + std::to_string(errno);
    return {bytes, length};
}

std::string digits_of(const std::string &value) {
    std::string text;
    for (const char byte : value) {
        char digits[4];
        std::snprintf(digits, sizeof digits, "%02x ", static_cast<unsigned char>(byte));
        text += digits;
    }
    return text;
}

template <typename T> std::string bytes_of(const T &value) {
    return {reinterpret_cast<const char *>(&value), sizeof value};
}

/// What an option is tried with: numbers, times, structures; or names.
std::vector<std::string> values_for(int level, int name) {
    if (level == IPPROTO_TCP && name == TCP_CONGESTION)
        return {"reno", "cubic", "bbr"};
    std::vector<std::string> values;
    for (const int number : {0, 1, 2, 3, 64, 1000, 70000})
        values.push_back(bytes_of(number));
    values.push_back(bytes_of(std::uint64_t{1}));
    values.push_back(bytes_of(std::uint64_t{1000000}));
    values.push_back(bytes_of(timeval{.tv_sec = 3, .tv_usec = 500000}));
    values.push_back(bytes_of(linger{.l_onoff = 1, .l_linger = 9}));
    return values;
}

using Name = std::pair<int, int>; ///< level and name

/// That a TCP socket of one family or the other has at all.
std::vector<Name> known_names() {
    const Socket v4 = Socket::open(AF_INET, SOCK_STREAM), v6 = Socket::open(AF_INET6, SOCK_STREAM);
    const std::string unknown = "error " + std::to_string(ENOPROTOOPT);
    std::vector<Name> names;
    for (const int level : levels)
        for (int name = 1; name < end_of(level); name++)
            if (!is_own_affair(level, name) && (value_of(v4.fd(), level, name) != unknown ||
                                                value_of(v6.fd(), level, name) != unknown))
                names.emplace_back(level, name);
    return names;
}

using Options = std::vector<std::pair<Name, std::string>>; ///< as in known_names()

Options options_of(int fd) {
    static const std::vector<Name> names = known_names();
    Options options;
    for (const Name &each : names)
        options.emplace_back(each, value_of(fd, each.first, each.second));
    return options;
}

/// A listener as the shim leaves every one, before listen().
Socket bound_listener(const Kind &kind) {
    Socket listener = harness::bound_tcp(Endpoint::wildcard(kind.listener, 0));
    listener.set(SOL_SOCKET, SO_REUSEPORT, 1);
    listener.set(SOL_SOCKET, SO_REUSEADDR, 1);
    return listener;
}

struct Connection {
    Socket client, accepted;
};

/// Empty where the listener's options keep it out.
std::optional<Connection> ordinary(const Socket &listener, const Kind &kind) {
    Connection made{.client = Socket::open(kind.peer, SOCK_STREAM), .accepted = {}};
    made.client.set(IPPROTO_IP, IP_TTL, 255);
    if (kind.peer == AF_INET6)
        made.client.set(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 255);
    const Endpoint to = Endpoint::loopback(kind.peer, listener.local().port());
    static_cast<void>(::connect(made.client.fd(), to.data(), to.length()));
    ::send(made.client.fd(), "\n", 1, MSG_NOSIGNAL); // TCP_DEFER_ACCEPT waits for it
    if (!harness::is_readable(listener.fd(), milliseconds(30)))
        return std::nullopt;
    made.accepted = Socket(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    return made;
}

/// A connection that the listener has not made, as a punch makes it; nullopt where nothing would be
/// punched.
std::optional<Connection> made_beside(const ServerSocket &server, const Kind &kind) {
    if (server.not_to_be_given != nullptr)
        return std::nullopt;
    const Socket there = harness::listening_tcp(Endpoint::loopback(kind.peer, 0));
    Connection made;
    made.accepted = open_beside(server, IPPROTO_TCP);
    REQUIRE(made.accepted);
    made.accepted.set(IPPROTO_TCP, TCP_SYNCNT, 127);
    made.accepted.set(IPPROTO_TCP, TCP_USER_TIMEOUT, 0);
    if (kind.listener == AF_INET6)
        made.accepted.set(IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, IPV6_PREFER_SRC_PUBLIC);
    if (kind.peer == AF_INET)
        made.accepted.set(IPPROTO_IP, IP_MINTTL, 2);
    const Endpoint at = Endpoint::wildcard(kind.listener, server.local.port());
    REQUIRE(::bind(made.accepted.fd(), at.data(), at.length()) == 0);
    const Endpoint to = kind.listener == kind.peer ? there.local() : there.local().mapped();
    static_cast<void>(::connect(made.accepted.fd(), to.data(), to.length()));
    REQUIRE(harness::is_readable(there.fd(), milliseconds(1000)));
    made.client = Socket(::accept4(there.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    return made;
}

/// When a listener is given an option. The shim shows it to the keeper again then, but what changes
/// it may have no shim: `unseen`.
enum class Moment : std::uint8_t { before_listen, after_listen, unseen };

const char *text_of(Moment moment) {
    return moment == Moment::before_listen  ? "before listen()"
           : moment == Moment::after_listen ? "after listen()"
                                            : "unseen";
}

struct Setting {
    int level;
    int name;
    std::string value;

    [[nodiscard]] bool is_made_on(const Socket &listener) const {
        return ::setsockopt(listener.fd(), level, name, value.data(),
                            static_cast<socklen_t>(value.size())) == 0;
    }
};

struct Pair {
    Options ordinary, punched;
    const char *refused = nullptr; ///< why nothing is punched
};

/// The kernel has taken one value of an option for another that was tried before: both are 1, say.
bool was_tried(const Socket &listener, const Setting &setting, std::set<std::string> &tried) {
    const std::string taken = value_of(listener.fd(), setting.level, setting.name);
    return !taken.starts_with("error") && !tried.insert(taken).second;
}

/// nullopt where the listener can't be given it, hears nobody then, or was given the same before.
std::optional<Pair> two_connections(const Kind &kind, Moment moment, const Setting *setting,
                                    std::set<std::string> &tried) {
    const Socket listener = bound_listener(kind);
    const auto is_no_case = [&] {
        return setting != nullptr &&
               (!setting->is_made_on(listener) || was_tried(listener, *setting, tried));
    };
    if (moment == Moment::before_listen && is_no_case())
        return std::nullopt;
    REQUIRE(::listen(listener.fd(), 4) == 0);
    auto described = describe(listener.fd());
    if (moment != Moment::before_listen && is_no_case())
        return std::nullopt;
    if (moment == Moment::after_listen)
        described = describe(listener.fd());
    const auto plain = ordinary(listener, kind);
    if (!plain)
        return std::nullopt; // nor does a bell reach it
    const auto bell = ordinary(listener, kind);
    REQUIRE(bell);
    const auto punched = made_beside(*described, kind);
    Pair pair;
    pair.refused = punched ? copy_inherited_options(bell->accepted.fd(), punched->accepted.fd())
                           : described->not_to_be_given;
    if (pair.refused == nullptr)
        pair.refused = inimitable(bell->accepted.fd(), option_memory_of(bell->client.fd()));
    if (pair.refused != nullptr)
        return pair;
    pair.ordinary = options_of(plain->accepted.fd());
    pair.punched = options_of(punched->accepted.fd());
    return pair;
}

/// How they differ; but what differs without any setting, for having come about another way, counts
/// only where the setting changes it.
std::string difference(const Pair &pair, const Pair &unset) {
    std::ostringstream text;
    for (std::size_t i = 0; i < pair.ordinary.size(); i++) {
        const auto &[which, value] = pair.ordinary[i];
        const std::string &other = pair.punched[i].second;
        const bool is_another_way =
            unset.ordinary[i] != unset.punched[i] && value == unset.ordinary[i].second;
        if (value != other && !is_another_way)
            text << which.first << "/" << which.second << ": " << digits_of(value) << "but punched "
                 << digits_of(other) << "; ";
    }
    return text.str();
}

} // namespace

TEST_CASE("inherited options: whatever a listener is given, a punched connection has as well") {
    std::map<std::string, std::set<std::pair<int, int>>> refused; ///< by what is said of them
    int compared = 0;
    for (const Kind &kind : kinds) {
        std::set<std::string> none;
        const auto unset = two_connections(kind, Moment::before_listen, nullptr, none);
        REQUIRE(unset);
        for (std::size_t i = 0; i < unset->ordinary.size(); i++) {
            const auto [level, name] = unset->ordinary[i].first;
            const bool is_alike = unset->ordinary[i] == unset->punched[i];
            // (On the loopback interface the segment follows the window.)
            const bool may_differ =
                makes_room(level, name) || (level == IPPROTO_TCP && name == TCP_MAXSEG);
            const std::string text = std::to_string(level) + "/" + std::to_string(name);
            CAPTURE(text);
            CHECK((is_alike || may_differ));
        }
        for (const Moment moment : {Moment::before_listen, Moment::after_listen, Moment::unseen})
            for (const int level : levels)
                for (int name = 1; name < end_of(level); name++) {
                    if (is_own_affair(level, name) || makes_room(level, name) ||
                        is_for_checkpoints(level, name) ||
                        (moment == Moment::unseen && counts_at_first(level, name)))
                        continue;
                    std::set<std::string> tried;
                    for (const std::string &value : values_for(level, name)) {
                        const Setting setting{level, name, value};
                        const auto pair = two_connections(kind, moment, &setting, tried);
                        if (!pair)
                            continue;
                        if (pair->refused != nullptr) {
                            refused[pair->refused].insert({level, name});
                            continue;
                        }
                        compared++;
                        std::ostringstream words;
                        words << kind.what << ", " << text_of(moment) << ": level " << level
                              << ", option " << name << ", " << value.size() << " bytes, the first "
                              << int{value[0]};
                        const std::string text = words.str();
                        CAPTURE(text);
                        CHECK(difference(*pair, *unset) == "");
                    }
                }
    }
    // Each is refused under its own name.
    const std::map<std::pair<int, int>, const char *> names{
        {{IPPROTO_IP, IP_OPTIONS}, "IP_OPTIONS"},
        {{IPPROTO_TCP, TCP_SAVE_SYN}, "TCP_SAVE_SYN"},
        {{IPPROTO_IPV6, IPV6_HOPOPTS}, "IPV6_HOPOPTS"},
        {{IPPROTO_IPV6, IPV6_RTHDRDSTOPTS}, "header options"},
        {{IPPROTO_IPV6, IPV6_DSTOPTS}, "header options"}};
    for (const auto &[why, options] : refused)
        for (const auto &each : options) {
            const std::string text = why + ": level " + std::to_string(each.first) + ", option " +
                                     std::to_string(each.second);
            CAPTURE(text);
            CHECK((names.contains(each) && why.find(names.at(each)) != std::string::npos));
        }
    MESSAGE(compared << " compared");
    CHECK(compared > 2000);
}

namespace {

tcp_md5sig key_for(const char *peer, const std::string &secret) {
    tcp_md5sig key{};
    auto *address = reinterpret_cast<sockaddr_in6 *>(&key.tcpm_addr);
    address->sin6_family = AF_INET6;
    inet_pton(AF_INET6, peer, &address->sin6_addr);
    key.tcpm_keylen = static_cast<std::uint16_t>(secret.size());
    std::memcpy(static_cast<void *>(key.tcpm_key), secret.data(), secret.size());
    return key;
}

/// Sets it, and notes it as the keeper does when the shim has seen it.
bool give_key(const Socket &listener, const tcp_md5sig &key, std::vector<OptionValue> &noted) {
    return ::setsockopt(listener.fd(), IPPROTO_TCP, TCP_MD5SIG, &key, sizeof key) == 0 &&
           add_key(noted, key_value(TCP_MD5SIG, &key, sizeof key).value());
}

} // namespace

TEST_CASE("inherited options: keys are given where all of them are known") {
    const Socket listener = harness::listening_tcp(Endpoint::wildcard(AF_INET6, 0));
    std::vector<OptionValue> noted;
    const auto is_given = [&] {
        return describe(listener.fd(), noted)->not_to_be_given == nullptr;
    };
    CHECK(is_given());
    REQUIRE(give_key(listener, key_for("2001:db8::5", "one"), noted));
    REQUIRE(give_key(listener, key_for("2001:db8::6", "two"), noted));
    CHECK(is_given());
    CHECK(describe(listener.fd())->not_to_be_given != nullptr);
    // Another key for the same peer takes the place of the first.
    REQUIRE(give_key(listener, key_for("2001:db8::5", "another"), noted));
    CHECK(noted.size() == 2);
    CHECK(is_given());
    // None takes it away.
    REQUIRE(give_key(listener, key_for("2001:db8::5", ""), noted));
    CHECK(noted.size() == 1);
    CHECK(is_given());
    // One that was not seen.
    const tcp_md5sig unseen = key_for("2001:db8::7", "unseen");
    REQUIRE(::setsockopt(listener.fd(), IPPROTO_TCP, TCP_MD5SIG, &unseen, sizeof unseen) == 0);
    CHECK_FALSE(is_given());
}

TEST_CASE("inherited options: what is no key is not taken for one") {
    const tcp_md5sig key = key_for("2001:db8::5", "one");
    CHECK(key_value(TCP_MD5SIG, &key, sizeof key));
    CHECK_FALSE(key_value(TCP_NODELAY, &key, sizeof key));
    CHECK_FALSE(key_value(TCP_MD5SIG, &key, sizeof key - 1));
    const std::array<std::uint8_t, 300> long_one{};
    CHECK_FALSE(key_value(TCP_MD5SIG, long_one.data(), long_one.size()));
}

TEST_CASE("inherited options: there is an end of keys") {
    std::vector<OptionValue> noted;
    tcp_md5sig key = key_for("2001:db8::5", "one");
    int added = 0;
    for (std::uint8_t last = 0; last < 255; last++)
        for (std::uint8_t other = 0; other < 2; other++) {
            auto *address = reinterpret_cast<sockaddr_in6 *>(&key.tcpm_addr);
            address->sin6_addr.s6_addr[15] = last;
            address->sin6_addr.s6_addr[14] = other;
            added += add_key(noted, key_value(TCP_MD5SIG, &key, sizeof key).value()) ? 1 : 0;
        }
    CHECK(added == 256);
}
