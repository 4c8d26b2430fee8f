#include "settings/settings_text.h"

#include "base/printable.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <strings.h>

#include <charconv>

namespace synergy {

using namespace expected;

namespace {

constexpr int refresh_max = 3600; ///< seconds
/// RFC 1035 2.3.4: "names 255 octets or less", and RFC 1034 3.1 with it: labels of 63 or less.
constexpr std::size_t name_max = 253;
constexpr std::size_t label_max = 63;

constexpr Expected a_name =
    "a host name of at most 253 bytes, with 1 to 63 between the dots and no '-' at either end";
constexpr Expected a_v6 = "an IPv6 address between the brackets";
constexpr Expected a_v4 = "an IPv4 address as 198.51.100.5";
constexpr Expected brackets = "an IPv6 address in brackets, as [2001:db8::5]:5555";
constexpr Expected a_bracket = "']' after the IPv6 address";
constexpr Expected one_host = "the address of one host, neither wildcard, multicast nor broadcast";
constexpr Expected no_network = "the address of one host: a hole is for one address, not a network";
constexpr Expected a_comma = "a comma or a space between peers";
constexpr Expected no_quotes = "no quotation marks: they are for a shell, and here are taken for a "
                               "part of the text";
constexpr Expected a_scope = "after '%' a network interface of this host";
constexpr Expected no_scope = "no '%' but after a link-local address (fe80::)";
constexpr Expected a_link =
    "after a link-local address (fe80::) '%' and the interface that leads there, as fe80::5%eth0";
constexpr Expected ascending = "a range whose first port is not above its last";
constexpr Expected in_utf8 = "text in UTF-8";
constexpr Expected no_loopback = "an address that peers can reach: who is at it is this host alone";
constexpr Expected anybodys_file =
    "a path that is the same for every process, stderr or syslog: the server's own is none";
constexpr Expected no_place =
    "stderr, syslog or a path (./ before the name of a file that is called so)";
constexpr Expected one_a_family = "one IPv6 and one IPv4 address at most";

/// A decimal number, and nothing else, within the bounds.
template <typename Number>
bool parse_number(std::string_view text, Number least, Number most, Number &number) {
    Number value = 0;
    const char *end = text.data() + text.size();
    const auto [stopped, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc() || stopped != end || value < least || value > most)
        return false;
    number = value;
    return true;
}

/// inet_pton() for a text that need not end in a NUL, and may hold one.
bool parse_bytes(int family, std::string_view text, void *address) {
    return text.find('\0') == std::string_view::npos &&
           inet_pton(family, std::string(text).c_str(), address) == 1;
}

Expected parse_v4(std::string_view text, Endpoint &address) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    if (!parse_bytes(AF_INET, text, &in.sin_addr))
        return a_v4;
    address = Endpoint::from(reinterpret_cast<const sockaddr *>(&in), sizeof(in));
    return nullptr;
}

/// Without brackets, with or without a scope.
Expected parse_v6(std::string_view text, Endpoint &address) {
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    const std::size_t percent = text.find('%');
    if (!parse_bytes(AF_INET6, text.substr(0, percent), &in6.sin6_addr))
        return a_v6;
    if (percent != std::string_view::npos) {
        if (!IN6_IS_ADDR_LINKLOCAL(&in6.sin6_addr))
            return no_scope;
        const std::string scope(text.substr(percent + 1));
        if (scope.find('\0') != std::string::npos)
            return a_scope;
        in6.sin6_scope_id = if_nametoindex(scope.c_str());
        if (in6.sin6_scope_id == 0 &&
            !parse_number<std::uint32_t>(scope, 1, UINT32_MAX, in6.sin6_scope_id))
            return a_scope;
    }
    // Firewalls and sockets know a v4-mapped address as the IPv4 address that it is.
    address = Endpoint::from(reinterpret_cast<const sockaddr *>(&in6), sizeof(in6)).unmapped();
    return nullptr;
}

bool is_all_of(std::string_view text, std::string_view characters) {
    return text.find_first_not_of(characters) == std::string_view::npos;
}

constexpr std::string_view digits = "0123456789";
constexpr std::string_view hexadecimal_digits = "0123456789abcdefABCDEF";

/// What ends as "192.0.2.0/24" does.
bool is_network(std::string_view text) {
    const std::size_t slash = text.find('/');
    if (slash == std::string_view::npos)
        return false;
    const std::string_view rest = text.substr(slash + 1);
    const std::string_view length = rest.substr(0, rest.find_first_of("]:"));
    return !length.empty() && is_all_of(length, digits);
}

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const bool is_ascii = static_cast<unsigned char>(text.front()) < 0x80;
        const std::size_t length = is_ascii ? 1 : shown_character(text);
        if (length == 0)
            return false;
        text.remove_prefix(length);
    }
    return true;
}

/// What is wrong with more than a part of the text.
Expected check_all(std::string_view text) {
    if (!is_utf8(text))
        return in_utf8;
    if (is_typographic(text))
        return plain;
    if (text.find_first_of("\"'`") != std::string_view::npos)
        return no_quotes;
    if (text.find(';') != std::string_view::npos)
        return a_comma;
    return is_network(text) ? no_network : nullptr;
}

/// Every link has addresses of its own from fe80::/10 (RFC 4007 6).
bool is_without_link(const Endpoint &address) {
    if (address.family() != AF_INET6)
        return false;
    const auto *in6 = reinterpret_cast<const sockaddr_in6 *>(address.data());
    return IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr) && in6->sin6_scope_id == 0;
}

bool may_be_name(std::string_view text) {
    const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
    const auto part_of_name = [&](char c) {
        // A byte above 127 is part of an internationalized name.
        return letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' ||
               static_cast<unsigned char>(c) > 127;
    };
    return std::any_of(text.begin(), text.end(), letter) &&
           std::all_of(text.begin(), text.end(), part_of_name);
}

/// What nobody calls a file, and elsewhere stands for where a log goes: also the two that are known
/// here, in other letters.
bool is_name_of_a_place(std::string_view text) {
    constexpr const char *names[] = {"stdout",  "stderr", "syslog", "journal", "journald",
                                     "console", "none",   "null",   "off",     "-"};
    return text != "stderr" && text != "syslog" &&
           std::any_of(std::begin(names), std::end(names), [text](const char *name) {
               return ::strcasecmp(std::string(text).c_str(), name) == 0;
           });
}

Expected parse_name(std::string_view text, std::string &name) {
    std::string_view rest = text.ends_with('.') ? text.substr(0, text.size() - 1) : text;
    if (rest.size() > name_max)
        return a_name;
    for (;;) {
        const std::string_view label = rest.substr(0, rest.find('.'));
        if (label.empty() || label.size() > label_max || label.front() == '-' ||
            label.back() == '-')
            return a_name;
        if (label.size() == rest.size())
            break;
        rest.remove_prefix(label.size() + 1);
    }
    name = text;
    return nullptr;
}

} // namespace

bool is_typographic(std::string_view text) {
    constexpr std::string_view kinds[] = {"\xe2\x80",     "\xe2\x88\x92", "\xc2\xa0",
                                          "\xef\xbb\xbf", "\xef\xbc",     "\xef\xbd"};
    return std::any_of(std::begin(kinds), std::end(kinds), [text](std::string_view kind) {
        return text.find(kind) != std::string_view::npos;
    });
}

std::string_view trimmed(std::string_view text) {
    const std::size_t begin = text.find_first_not_of(white_space);
    if (begin == std::string_view::npos)
        return {};
    return text.substr(begin, text.find_last_not_of(white_space) - begin + 1);
}

Expected check_host(const Endpoint &address) {
    if (address.is_wildcard() || address.is_multicast() || address.is_broadcast())
        return one_host;
    return is_without_link(address) ? a_link : nullptr;
}

Expected parse_ports(std::string_view text, std::uint16_t &first, std::uint16_t &last) {
    constexpr std::uint16_t most = 65535;
    if (is_typographic(text))
        return plain;
    const std::size_t dash = text.find('-');
    if (!parse_number<std::uint16_t>(text.substr(0, dash), 1, most, first))
        return a_port;
    last = first;
    if (dash != std::string_view::npos &&
        !parse_number<std::uint16_t>(text.substr(dash + 1), 1, most, last))
        return a_port;
    return first <= last ? nullptr : ascending;
}

Expected parse_peer(std::string_view text, Peer &peer) {
    Expected expected = check_all(text);
    if (expected != nullptr)
        return expected;
    std::string_view ports;
    if (text.starts_with('[')) {
        const std::size_t close = text.find(']');
        if (close == std::string_view::npos)
            return a_bracket;
        expected = parse_v6(text.substr(1, close - 1), peer.address);
        ports = text.substr(close + 1);
    } else {
        const std::size_t colon = std::min(text.find(':'), text.size());
        const std::string_view host = text.substr(0, colon);
        ports = text.substr(colon);
        expected = parse_v4(host, peer.address);
        if (expected != nullptr && ports.find(':', 1) != std::string_view::npos)
            return is_all_of(host, hexadecimal_digits) ? brackets : a_peer;
        if (expected != nullptr && may_be_name(host))
            expected = parse_name(host, peer.host);
        else if (expected != nullptr && (!is_all_of(host, "0123456789.") || ports.empty()))
            return a_peer;
    }
    if (expected != nullptr)
        return expected;
    if (!ports.starts_with(':'))
        return a_peer;
    if (peer.host.empty() && (expected = check_host(peer.address)) != nullptr)
        return expected;
    return parse_ports(ports.substr(1), peer.first_port, peer.last_port);
}

Expected parse_hops(std::string_view text, HopLimit &hops) {
    int number = 0;
    if (text == "auto")
        hops = HopLimit();
    else if (parse_number(text, hop_limit_min, hop_limit_max, number))
        hops = HopLimit::from(number).value();
    else
        return some_hops;
    return nullptr;
}

Expected parse_bound(std::string_view text, int &bound) {
    return parse_number(text, hop_limit_min, hop_limit_max, bound) ? nullptr : a_bound;
}

Expected parse_local(std::string_view text, std::vector<Endpoint> &local) {
    if (text.starts_with('[') && text.ends_with(']'))
        text = text.substr(1, text.size() - 2);
    Endpoint address;
    const bool v6 = text.find(':') != std::string_view::npos;
    if (Expected expected = v6 ? parse_v6(text, address) : parse_v4(text, address))
        return expected == a_scope || expected == no_scope ? expected : a_local;
    if (Expected expected = check_host(address))
        return expected;
    if (address.is_loopback())
        return no_loopback;
    for (const Endpoint &other : local)
        if (other.family() == address.family())
            return one_a_family;
    local.push_back(address);
    return nullptr;
}

Expected parse_refresh(std::string_view text, std::chrono::seconds &refresh) {
    int seconds = 0;
    if (!parse_number(text, 1, refresh_max, seconds))
        return some_seconds;
    refresh = std::chrono::seconds(seconds);
    return nullptr;
}

Expected parse_protocol(std::string_view text, std::optional<Transport> &protocol) {
    for (const Transport transport : {Transport::tcp, Transport::udp, Transport::sctp}) {
        if (text == name(transport)) {
            protocol = transport;
            return nullptr;
        }
    }
    return a_protocol;
}

Expected parse_log(std::string_view text, LogLevel &level) {
    struct Level {
        std::string_view name;
        LogLevel level;
    };
    constexpr Level levels[] = {{"debug", LogLevel::debug},
                                {"info", LogLevel::info},
                                {"warn", LogLevel::warn},
                                {"error", LogLevel::error},
                                {"off", LogLevel::off}};
    for (const Level &each : levels) {
        if (text == each.name) {
            level = each.level;
            return nullptr;
        }
    }
    return a_level;
}

Expected parse_log_file(std::string_view text, std::string &path) {
    if (text.empty() || text.find('\0') != std::string_view::npos)
        return a_log_file;
    if (is_name_of_a_place(text))
        return no_place;
    // What is meant is the server's, and the keeper who writes there has others by these names.
    for (const std::string_view own : {"/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"})
        if (text == own)
            text = "stderr";
    for (const std::string_view own :
         {"/dev/std", "/dev/fd/", "/proc/self/", "/proc/thread-self/", "/dev/tty"})
        if (text.starts_with(own) && (own != "/dev/tty" || text == own))
            return anybodys_file;
    path = text;
    return nullptr;
}

} // namespace synergy
