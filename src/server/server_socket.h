// A server's socket as the keeper needs to know it.
#pragma once

#include "base/endpoint.h"
#include "server/inherited_options.h"
#include "server/socket_diag.h"

#include <array>
#include <optional>

namespace synergy {

struct ServerSocket {
    int fd = -1;              ///< its number in the server, for the log and as a first guess
    std::uint64_t cookie = 0; ///< SO_COOKIE: what it is known by
    std::uint64_t inode = 0;  ///< what /proc has for it
    uid_t owner = 0;          ///< the user that made it
    gid_t group = 0;          ///< and in which group
    Transport transport = Transport::tcp;
    Endpoint local;
    Endpoint connected;          ///< whom it is connected to, if at all
    bool is_multipath = false;   ///< TCP: a socket of MPTCP (RFC 8684), which listens for both
    bool listens = false;        ///< SO_ACCEPTCONN; not yet, where listen() is about to be called
    bool has_device = false;     ///< bound to one (SO_BINDTODEVICE)
    bool takes_v4 = false;       ///< AF_INET6 without IPV6_V6ONLY
    bool is_shut_down = false;   ///< and stays open: nobody can bind beside it
    bool is_prepared = false;    ///< what the server has set of the next is known
    bool lets_others_in = false; ///< the server has set SO_REUSEADDR, as far as it is known
    /// What it hands down to its connections, of TCP and one-to-one SCTP.
    std::vector<OptionValue> chosen;
    /// What it has that a connection made beside it can't be given, as text for the log; nullptr:
    /// nothing.
    const char *not_to_be_given = nullptr;
    std::uint32_t option_memory = 0; ///< what its keys take
    int deferred = 0; ///< TCP_DEFER_ACCEPT: for how many seconds a silent connection is no client
    bool asks_for_errors = false; ///< IP_RECVERR, or IPV6's
    bool is_shared = false;       ///< the server lets others have the port, by SO_REUSEPORT
    /// UDP: punches may leave from a socket that is bound beside this one for a moment. Not so
    /// where the server shares the port by a group of its own, whose balance that would break, or
    /// where the two would not be alike.
    bool has_room_beside = false;
    bool one_to_many = false;      ///< SCTP: SOCK_SEQPACKET
    std::uint16_t streams_out = 0; ///< SCTP_INITMSG
    std::uint16_t streams_in = 0;
    std::array<std::uint8_t, 14> events{}; ///< SCTP_EVENTS: the notifications that it asked for

    /// Whether peers come out of accept(), so that other sockets punch beside it; or else they are
    /// heard by the socket itself.
    [[nodiscard]] bool accepts() const { return transport != Transport::udp && !one_to_many; }
    /// Whether it takes peers; or else it is a listener to be.
    [[nodiscard]] bool is_ready() const { return listens || !accepts(); }
    /// Whether punches leave from the socket itself, so that a duplicate of it is kept.
    [[nodiscard]] bool punches_itself() const { return !accepts() && !has_room_beside; }
    /// What the kernel is to be asked for.
    [[nodiscard]] SocketDiag::Sought sought() const { return {cookie, is_multipath ? inode : 0}; }
    /// "tcp [::]:4444", as lines of the log begin.
    [[nodiscard]] std::string text() const {
        return std::string(name(transport)) + " " + local.text();
    }
    /// The line that says why there is no hole for it.
    [[nodiscard]] std::string not_punched(const std::string &why) const {
        return text() + ": nothing is punched: " + why;
    }
};

/// What the socket behind a descriptor of ours is; nullopt and errno set if it is none (EBADF,
/// ENOTSOCK), not of a transport or address family of ours (EOPNOTSUPP, EAFNOSUPPORT).
/// `keys` are those that it is known to have been given (add_key()). `prepared`: the same socket
/// just before its listen(), which has not changed its options. `when`: which of its options are
/// read, all or but those that its first punch needs.
std::optional<ServerSocket> describe(int fd, const std::vector<OptionValue> &keys = {},
                                     const ServerSocket *prepared = nullptr,
                                     When when = When::ever);
/// Adds the others, from a descriptor of ours of the same socket.
void add_later_options(ServerSocket &socket, int fd);

/// SO_COOKIE and SO_NETNS_COOKIE; 0 where there is none to be had.
std::uint64_t cookie_of(int fd);
std::uint64_t network_of(int fd);

} // namespace synergy
