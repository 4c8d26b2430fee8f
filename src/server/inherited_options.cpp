#include "server/inherited_options.h"

#include "base/socket.h"
#include "wire.h"

#include <algorithm>
#include <cstring>
#include <linux/in6.h> // IPV6_ADDR_PREFERENCES
#include <linux/sctp.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <optional>

namespace synergy {

namespace {

// Not in every libc's headers: asm-generic/socket.h, linux/in.h, linux/in6.h, linux/tcp.h.
enum : std::uint8_t {
    so_bindtoifindex = 62,
    so_rcvmark = 75,
    so_rcvpriority = 82,
    so_buf_lock = 72,
    so_txrehash = 74,
    so_prefer_busy_poll = 69,
    so_timestamp_new = 63,
    so_timestampns_new = 64,
    so_timestamping_new = 65,
    ip_recverr_rfc4884 = 26,
    ip_local_port_range = 51,
    ipv6_recverr_rfc4884 = 31,
    ipv6_multicast_all = 29,
    ipv6_router_alert_isolate = 30,
    tcp_tx_delay = 37,
    tcp_rto_max_ms = 44,
    tcp_rto_min_us = 45,
    tcp_delack_max_us = 46,
};

enum class Kind : std::uint8_t {
    late,  ///< of the connection once it is there
    early, ///< of its first SYN or INIT as well
    first, ///< of that alone: nothing tells afterwards what was wanted
};

constexpr socklen_t longest_read = 32;

struct Option {
    int level;
    int name;
    Kind kind;
    const char *text;
};

#define SYNERGY_OPTION(level, name, kind)                                                          \
    Option {                                                                                       \
        level, name, Kind::kind, #name                                                             \
    }

// All that a program can read of what sk_clone_lock(), tcp_create_openreq_child() and
// sctp_copy_sock() hand down. Others are not here, since they are the connection's own
// (SO_INCOMING_CPU, and IP_MULTICAST_TTL, which accept() takes from the peer's SYN), a client's
// (TCP_FASTOPEN_CONNECT), the punch's
// (SCTP_PEER_ADDR_PARAMS: its heartbeats keep firewalls open), or what makes room beside it
// (SO_REUSEADDR, SO_REUSEPORT, which the listener has as well). Buffers are below, and what can't
// be read is at the end.
constexpr std::array handed_down{
    SYNERGY_OPTION(SOL_SOCKET, so_bindtoifindex, early),
    SYNERGY_OPTION(SOL_SOCKET, SO_MARK, early),
    SYNERGY_OPTION(SOL_SOCKET, SO_DEBUG, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_DONTROUTE, early),
    SYNERGY_OPTION(SOL_SOCKET, SO_BROADCAST, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_KEEPALIVE, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_OOBINLINE, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_NO_CHECK, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_LINGER, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_RCVLOWAT, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_RCVTIMEO, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_SNDTIMEO, late),
    // The old ones say that it is not the new ones.
    SYNERGY_OPTION(SOL_SOCKET, SO_TIMESTAMPING, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_TIMESTAMP, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_TIMESTAMPNS, late),
    SYNERGY_OPTION(SOL_SOCKET, so_timestamping_new, late),
    SYNERGY_OPTION(SOL_SOCKET, so_timestamp_new, late),
    SYNERGY_OPTION(SOL_SOCKET, so_timestampns_new, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_RXQ_OVFL, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_WIFI_STATUS, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_PEEK_OFF, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_NOFCS, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_SELECT_ERR_QUEUE, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_BUSY_POLL, late),
    SYNERGY_OPTION(SOL_SOCKET, so_prefer_busy_poll, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_MAX_PACING_RATE, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_ZEROCOPY, late),
    SYNERGY_OPTION(SOL_SOCKET, SO_TXTIME, late),
    SYNERGY_OPTION(SOL_SOCKET, so_txrehash, late),
    SYNERGY_OPTION(SOL_SOCKET, so_rcvmark, late),
    SYNERGY_OPTION(SOL_SOCKET, so_rcvpriority, late),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_MAXSEG, first),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_WINDOW_CLAMP, first),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, first),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_CONGESTION, early),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_NODELAY, late),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_CORK, late),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_KEEPIDLE, late),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_KEEPINTVL, late),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_KEEPCNT, late),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_SYNCNT, late),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_LINGER2, late),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_QUICKACK, late),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, late),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_USER_TIMEOUT, late),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_NOTSENT_LOWAT, late),
    SYNERGY_OPTION(IPPROTO_TCP, TCP_INQ, late),
    SYNERGY_OPTION(IPPROTO_TCP, tcp_tx_delay, late),
    SYNERGY_OPTION(IPPROTO_TCP, tcp_rto_max_ms, late),
    SYNERGY_OPTION(IPPROTO_TCP, tcp_rto_min_us, late),
    SYNERGY_OPTION(IPPROTO_TCP, tcp_delack_max_us, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_ADAPTATION_LAYER, early),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_PR_SUPPORTED, early),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_RECONFIG_SUPPORTED, early),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_ASCONF_SUPPORTED, early),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_AUTH_SUPPORTED, early),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_ECN_SUPPORTED, early),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_FRAGMENT_INTERLEAVE, early),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_INTERLEAVING_SUPPORTED, early), // after the one above
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_MAXSEG, first),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_INITMSG, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_RTOINFO, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_ASSOCINFO, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_NODELAY, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_EVENTS, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_DISABLE_FRAGMENTS, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_DEFAULT_SEND_PARAM, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_DEFAULT_PRINFO, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_I_WANT_MAPPED_V4_ADDR, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_DELAYED_SACK, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_CONTEXT, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_PARTIAL_DELIVERY_POINT, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_MAX_BURST, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_RECVRCVINFO, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_RECVNXTINFO, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_ENABLE_STREAM_RESET, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_STREAM_SCHEDULER, late),
    SYNERGY_OPTION(IPPROTO_SCTP, SCTP_EXPOSE_POTENTIALLY_FAILED_STATE, late),
    SYNERGY_OPTION(IPPROTO_IP, IP_TRANSPARENT, early),
    SYNERGY_OPTION(IPPROTO_IP, IP_FREEBIND, early),
    SYNERGY_OPTION(IPPROTO_IP, IP_UNICAST_IF, early),
    SYNERGY_OPTION(IPPROTO_IP, IP_TOS, early),
    SYNERGY_OPTION(IPPROTO_IP, IP_MTU_DISCOVER, early),
    SYNERGY_OPTION(IPPROTO_IP, IP_TTL, early),
    SYNERGY_OPTION(IPPROTO_IP, IP_MINTTL, early),
    SYNERGY_OPTION(IPPROTO_IP, IP_RECVERR, late),
    SYNERGY_OPTION(IPPROTO_IP, ip_recverr_rfc4884, late),
    SYNERGY_OPTION(IPPROTO_IP, IP_PKTINFO, late),
    SYNERGY_OPTION(IPPROTO_IP, IP_RECVOPTS, late),
    SYNERGY_OPTION(IPPROTO_IP, IP_RETOPTS, late),
    SYNERGY_OPTION(IPPROTO_IP, IP_RECVTTL, late),
    SYNERGY_OPTION(IPPROTO_IP, IP_RECVTOS, late),
    SYNERGY_OPTION(IPPROTO_IP, IP_PASSSEC, late),
    SYNERGY_OPTION(IPPROTO_IP, IP_RECVORIGDSTADDR, late),
    SYNERGY_OPTION(IPPROTO_IP, IP_CHECKSUM, late),
    SYNERGY_OPTION(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, late),
    SYNERGY_OPTION(IPPROTO_IP, IP_MULTICAST_LOOP, late),
    SYNERGY_OPTION(IPPROTO_IP, IP_MULTICAST_ALL, late),
    SYNERGY_OPTION(IPPROTO_IP, ip_local_port_range, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_UNICAST_IF, early),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_TCLASS, early),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, early),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_MTU_DISCOVER, early),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_DONTFRAG, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_UNICAST_HOPS, early),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_MINHOPCOUNT, early),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_RECVERR, late),
    SYNERGY_OPTION(IPPROTO_IPV6, ipv6_recverr_rfc4884, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_FLOWINFO, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_FLOWINFO_SEND, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_2292PKTINFO, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_2292HOPOPTS, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_2292DSTOPTS, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_2292RTHDR, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_2292HOPLIMIT, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_RECVPKTINFO, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_RECVHOPLIMIT, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_RECVHOPOPTS, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_RECVRTHDR, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_RECVDSTOPTS, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_RECVPATHMTU, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_RECVTCLASS, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_RECVFRAGSIZE, late),
    SYNERGY_OPTION(IPPROTO_IPV6, IPV6_MULTICAST_LOOP, late),
    SYNERGY_OPTION(IPPROTO_IPV6, ipv6_multicast_all, late),
    SYNERGY_OPTION(IPPROTO_IPV6, ipv6_router_alert_isolate, late),
    // IP_TOS sets it too (ip(7)).
    SYNERGY_OPTION(SOL_SOCKET, SO_PRIORITY, late),
    // No filter can be attached after this one.
    SYNERGY_OPTION(SOL_SOCKET, SO_LOCK_FILTER, late),
};

#undef SYNERGY_OPTION

std::optional<OptionValue> read(int fd, const Option &option) {
    OptionValue value{.level = option.level,
                      .name = option.name,
                      .text = option.text,
                      .is_early = option.kind != Kind::late};
    // Of this one alone the kernel tells no other length than the one it is asked for.
    const bool is_of_one_length = option.level == IPPROTO_SCTP && option.name == SCTP_MAX_BURST;
    value.length = is_of_one_length ? sizeof(sctp_assoc_value) : longest_read;
    if (getsockopt(fd, option.level, option.name, value.bytes.data(), &value.length) != 0)
        return std::nullopt;
    // What it says of the peer can't be set.
    if (option.level == IPPROTO_SCTP && option.name == SCTP_ASSOCINFO) {
        sctp_assocparams parameters{};
        std::memcpy(&parameters, value.bytes.data(), sizeof parameters);
        parameters.sasoc_number_peer_destinations = 0;
        parameters.sasoc_peer_rwnd = parameters.sasoc_local_rwnd = 0;
        std::memcpy(value.bytes.data(), &parameters, sizeof parameters);
    }
    return value;
}

bool is_of(When when, bool is_early) {
    return when == When::ever || is_early == (when == When::before_connecting);
}

/// Sizes that the server did not choose follow what a connection carries, each its own.
struct Buffer {
    int name;
    int name_with_force; ///< beyond the system's limit, with CAP_NET_ADMIN
    int lock;            ///< its bit of SO_BUF_LOCK: the server chose its size
    const char *text;
};
constexpr std::array buffers{Buffer{SO_SNDBUF, SO_SNDBUFFORCE, 1, "SO_SNDBUF"},
                             Buffer{SO_RCVBUF, SO_RCVBUFFORCE, 2, "SO_RCVBUF"}};

OptionValue buffer_value(int name, const char *text, int value) {
    OptionValue made{
        .level = SOL_SOCKET, .name = name, .text = text, .is_early = true, .length = sizeof value};
    std::memcpy(made.bytes.data(), &value, sizeof value);
    return made;
}

bool give_buffer(const Buffer &buffer, int to, int size) {
    // The kernel doubles what is set (socket(7)).
    const int half = size / 2;
    if (::setsockopt(to, SOL_SOCKET, buffer.name, &half, sizeof half) == 0 &&
        get_option(to, SOL_SOCKET, buffer.name) == size)
        return true;
    return ::setsockopt(to, SOL_SOCKET, buffer.name_with_force, &half, sizeof half) == 0;
}

bool give(const OptionValue &value, int to) {
    for (const Buffer &buffer : buffers)
        if (value.level == SOL_SOCKET && value.name == buffer.name) {
            int size = 0;
            std::memcpy(&size, value.bytes.data(), sizeof size);
            return give_buffer(buffer, to, size);
        }
    return ::setsockopt(to, value.level, value.name, value.bytes.data(), value.length) == 0;
}

/// The sizes before what locks them: setting a size locks it. Before Linux 5.14 nothing tells
/// whether one is locked (-1).
void add_buffers(int from, int other, bool is_listener, std::vector<OptionValue> &found) {
    const int locks = get_option(from, SOL_SOCKET, so_buf_lock, -1);
    for (const Buffer &buffer : buffers) {
        const int size = get_option(from, SOL_SOCKET, buffer.name);
        const bool is_locked = locks >= 0 && (locks & buffer.lock) != 0;
        const bool is_another = size != get_option(other, SOL_SOCKET, buffer.name);
        if (is_listener ? is_locked || is_another : is_locked && is_another)
            found.push_back(buffer_value(buffer.name, buffer.text, size));
    }
    if (locks >= 0 && (!found.empty() || locks != get_option(other, SOL_SOCKET, so_buf_lock)))
        found.push_back(buffer_value(so_buf_lock, "SO_BUF_LOCK", locks));
}

} // namespace

std::vector<std::optional<OptionValue>> all_options(int fd) {
    std::vector<std::optional<OptionValue>> values;
    values.reserve(handed_down.size());
    for (const Option &option : handed_down)
        values.push_back(read(fd, option));
    return values;
}

std::vector<OptionValue> chosen_options(int listener, int fresh,
                                        const std::vector<std::optional<OptionValue>> &values,
                                        When when) {
    std::vector<OptionValue> chosen;
    if (when != When::afterwards)
        add_buffers(listener, fresh, true, chosen);
    for (std::size_t i = 0; i < handed_down.size(); i++)
        if (values[i] && is_of(when, handed_down[i].kind != Kind::late))
            if (auto wanted = read(listener, handed_down[i]); wanted && *wanted != *values[i])
                chosen.push_back(*wanted);
    return chosen;
}

const char *give_options(const std::vector<OptionValue> &options, int to, When when) {
    const char *missing = nullptr;
    for (const OptionValue &value : options)
        if (is_of(when, value.is_early) && !give(value, to) && missing == nullptr)
            missing = value.text;
    return missing;
}

bool begin_alike(const std::vector<OptionValue> &one, const std::vector<OptionValue> &other) {
    const auto all_in = [](const auto &some, const auto &others) {
        return std::all_of(some.begin(), some.end(), [&](const OptionValue &value) {
            return !value.is_early ||
                   std::find(others.begin(), others.end(), value) != others.end();
        });
    };
    return all_in(one, other) && all_in(other, one);
}

std::uint64_t hash_of_beginning(const std::vector<OptionValue> &options) {
    std::uint64_t all = 0; // in whatever order
    for (const OptionValue &value : options) {
        if (!value.is_early)
            continue;
        const std::array<int, 2> which{value.level, value.name};
        all += synergy_hash(synergy_hash(value.length, which.data(), sizeof which),
                            value.bytes.data(), value.length);
    }
    return all;
}

int chosen_number(const std::vector<OptionValue> &options, int level, int name) {
    int number = 0;
    for (const OptionValue &value : options)
        if (value.level == level && value.name == name)
            std::memcpy(&number, value.bytes.data(), sizeof number);
    return number;
}

namespace {

/// Whether the connection has a congestion control that the bell tells nothing of: the route to the
/// peer has one (ip-route(8), congctl), which counts more than the listener's. A bell goes another
/// way.
bool is_decided_by_route(const Option &option, const OptionValue &present, int to) {
    if (option.level != IPPROTO_TCP || option.name != TCP_CONGESTION)
        return false;
    const Socket fresh = Socket::open(get_option(to, SOL_SOCKET, SO_DOMAIN), SOCK_STREAM);
    return read(fresh.fd(), option) != present;
}

} // namespace

const char *copy_inherited_options(int from, int to) {
    const char *missing = nullptr;
    std::vector<OptionValue> wanted_buffers;
    add_buffers(from, to, false, wanted_buffers);
    missing = give_options(wanted_buffers, to, When::ever);
    // Read only now what is to be given, since one may change another.
    for (const Option &option : handed_down) {
        if (option.kind == Kind::first)
            continue;
        const auto wanted = read(from, option);
        const auto present = wanted ? read(to, option) : std::nullopt;
        if (present && *present != *wanted && !is_decided_by_route(option, *present, to) &&
            !give(*wanted, to) && missing == nullptr)
            missing = option.text;
    }
    return missing;
}

namespace {

constexpr const char *a_filter = "a socket filter (SO_ATTACH_FILTER, SO_ATTACH_BPF)";
constexpr const char *keys_or_headers = "keys or header options (TCP_MD5SIG, TCP_AO, IPV6_HOPOPTS)";
constexpr const char *header_options = "options in the header of IPv4 (IP_OPTIONS)";
constexpr const char *saved_syn = "TCP_SAVE_SYN: nobody keeps the SYN of a peer that meets a punch";
constexpr const char *sctp_keys = "chunks that are to be authenticated (SCTP_AUTH_CHUNK)";

/// How many instructions it has, or that it is none that can be read.
bool has_filter(int fd) {
    socklen_t instructions = 0;
    return getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, nullptr, &instructions) == 0
               ? instructions != 0
               : errno == EACCES;
}

/// Accepted connections have none of them, but they hide what TCP_MAXSEG is.
bool has_header_options(int fd) {
    std::array<char, 40> options{}; // RFC 791 3.1: at most
    socklen_t length = options.size();
    return getsockopt(fd, IPPROTO_IP, IP_OPTIONS, options.data(), &length) == 0 && length != 0;
}

/// RFC 4895. Those of RFC 5061 are the kernel's own.
bool authenticates_chunks(int fd) {
    constexpr std::uint8_t asconf = 0xc1, asconf_ack = 0x80;
    struct {
        sctp_assoc_t association = 0;
        std::uint32_t count = 0;
        std::array<std::uint8_t, 256> types{};
    } chunks;
    socklen_t length = sizeof chunks;
    if (getsockopt(fd, IPPROTO_SCTP, SCTP_LOCAL_AUTH_CHUNKS, &chunks, &length) != 0)
        return false;
    for (std::size_t i = 0; i < chunks.count && i < chunks.types.size(); i++)
        if (chunks.types[i] != asconf && chunks.types[i] != asconf_ack)
            return true;
    return false;
}

} // namespace

const char *const what_takes_memory =
    "a socket filter, keys or header options (SO_ATTACH_FILTER, TCP_MD5SIG, TCP_AO, IPV6_HOPOPTS)";

std::uint32_t option_memory_of(int fd) {
    return meminfo_of(fd, SK_MEMINFO_OPTMEM);
}

std::optional<OptionValue> key_value(int option, const void *bytes, std::size_t length) {
    OptionValue key{.level = IPPROTO_TCP,
                    .name = option,
                    .text = "TCP_MD5SIG",
                    .is_early = true,
                    .length = static_cast<socklen_t>(length)};
    if ((option != TCP_MD5SIG && option != TCP_MD5SIG_EXT) || length < sizeof(tcp_md5sig) ||
        length > key.bytes.size())
        return std::nullopt;
    std::memcpy(key.bytes.data(), bytes, length);
    return key;
}

bool is_key(const OptionValue &value) {
    return value.level == IPPROTO_TCP && (value.name == TCP_MD5SIG || value.name == TCP_MD5SIG_EXT);
}

bool add_key(std::vector<OptionValue> &keys, const OptionValue &key) {
    constexpr std::size_t most = 256;
    const auto signature = [](const OptionValue &value) {
        tcp_md5sig fields{};
        std::memcpy(&fields, value.bytes.data(), sizeof fields);
        return fields;
    };
    const tcp_md5sig one = signature(key);
    const auto address_of = [](const tcp_md5sig &of) {
        return Endpoint::from(reinterpret_cast<const sockaddr *>(&of.tcpm_addr),
                              sizeof of.tcpm_addr);
    };
    const auto is_for_the_same = [&](const OptionValue &other) {
        const tcp_md5sig two = signature(other);
        return key.name == other.name && one.tcpm_flags == two.tcpm_flags &&
               one.tcpm_prefixlen == two.tcpm_prefixlen && one.tcpm_ifindex == two.tcpm_ifindex &&
               address_of(one).same_address(address_of(two));
    };
    std::erase_if(keys, is_for_the_same);
    if (one.tcpm_keylen == 0)
        return true;
    if (keys.size() >= most)
        return false;
    keys.push_back(key);
    return true;
}

std::string not_to_be_given(const char *what) {
    return std::string(
               "a connection that was not made by this listener can't be given what it has: ") +
           what;
}

const char *inimitable(int fd, int other) {
    if (has_filter(fd))
        return a_filter;
    if (option_memory_of(fd) != option_memory_of(other))
        return keys_or_headers;
    if (has_header_options(fd))
        return header_options;
    if (get_option(fd, IPPROTO_TCP, TCP_SAVE_SYN) != 0)
        return saved_syn;
    return authenticates_chunks(fd) ? sctp_keys : nullptr;
}

} // namespace synergy
