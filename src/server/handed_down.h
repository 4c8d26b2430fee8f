// The options that the kernel's accept() hands down from a listener to its connections.
#pragma once

#include <array>
#include <cstdint>

#include <linux/in6.h> // IPV6_ADDR_PREFERENCES
#include <linux/sctp.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace synergy {

// Not in every libc's headers: asm-generic/socket.h, linux/in.h, linux/in6.h, linux/tcp.h.
enum : std::uint8_t {
    so_bindtoifindex = 62,
    so_rcvmark = 75,
    so_rcvpriority = 82,
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

/// When one counts.
enum class OptionKind : std::uint8_t {
    late,  ///< of the connection once it is there
    early, ///< of its first SYN or INIT as well
    first, ///< of that alone: nothing tells afterwards what was wanted
};

struct HandedDownOption {
    int level;
    int name;
    OptionKind kind;
    const char *text; ///< its name
};

#define SYNERGY_OPTION(level, name, kind)                                                          \
    HandedDownOption {                                                                             \
        level, name, OptionKind::kind, #name                                                       \
    }

/// All that a program can read of what sk_clone_lock(), tcp_create_openreq_child() and
/// sctp_copy_sock() hand down. Others are not here, since they are the connection's own
/// (SO_INCOMING_CPU, and IP_MULTICAST_TTL, which accept() takes from the peer's SYN), a client's
/// (TCP_FASTOPEN_CONNECT), the punch's (SCTP_PEER_ADDR_PARAMS: its heartbeats keep firewalls open),
/// or what makes room beside it (SO_REUSEADDR, SO_REUSEPORT, which the listener has as well).
/// Buffers are in inherited_options.cpp, and what can't be read in inimitable.cpp.
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

} // namespace synergy
