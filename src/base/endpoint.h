// Addresses and ports as plain values: endpoints of sockets, and the peers that a user declares.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <functional>
#include <string>

namespace synergy {

enum class Transport : std::uint8_t { tcp, udp, sctp };
inline constexpr std::array all_transports{Transport::tcp, Transport::udp, Transport::sctp};

/// "tcp", "udp", "sctp".
const char *name(Transport transport);
/// For socket(): IPPROTO_TCP and so on.
int protocol_of(Transport transport);

/// One end of a connection: IPv6 or IPv4 address and port, as sockaddr_in6 and sockaddr_in say it.
/// The default value is empty: family AF_UNSPEC.
class Endpoint {
  public:
    Endpoint() = default;

    /// The value of a socket address; empty if it is too short or of another family.
    static Endpoint from(const sockaddr *address, socklen_t length);
    /// The wildcard address of AF_INET or AF_INET6.
    static Endpoint wildcard(int family, std::uint16_t port);
    static Endpoint loopback(int family, std::uint16_t port);

    /// For the socket calls; length() is 0 for the empty value.
    [[nodiscard]] const sockaddr *data() const;
    [[nodiscard]] socklen_t length() const;

    [[nodiscard]] int family() const { return any_.sa.sa_family; }
    [[nodiscard]] bool empty() const { return family() == AF_UNSPEC; }
    [[nodiscard]] std::uint16_t port() const; ///< in host byte order
    [[nodiscard]] bool is_wildcard() const;   ///< :: or 0.0.0.0, also ::ffff:0.0.0.0
    [[nodiscard]] bool is_loopback() const;
    [[nodiscard]] bool is_link_local() const; ///< fe80::/10 (RFC 4291), 169.254/16 (RFC 3927)
    [[nodiscard]] bool is_multicast() const;
    [[nodiscard]] bool is_broadcast() const; ///< 255.255.255.255
    [[nodiscard]] bool is_v4_mapped() const; ///< ::ffff:a.b.c.d (RFC 4291 2.5.5.2)

    [[nodiscard]] Endpoint with_port(std::uint16_t port) const;
    /// An IPv4 endpoint as AF_INET6 sockets see it; any other unchanged.
    [[nodiscard]] Endpoint mapped() const;
    /// The IPv4 endpoint in a v4-mapped one; any other unchanged.
    [[nodiscard]] Endpoint unmapped() const;
    /// Equal but for the port (and for the scope where one of them has none).
    [[nodiscard]] bool same_address(const Endpoint &other) const;

    /// "2001:db8::5", "198.51.100.5", "fe80::1%2"
    [[nodiscard]] std::string address_text() const;
    /// "[2001:db8::5]:5555", "198.51.100.5:5555"
    [[nodiscard]] std::string text() const;

    bool operator==(const Endpoint &other) const;

  private:
    union Any {
        sockaddr sa;
        sockaddr_in in;
        sockaddr_in6 in6;
    };
    Any any_{.in6 = {}};
};

/// A peer as a user declares it: an address or a host name, and the ports that it may come from.
struct Peer {
    Endpoint address; ///< port 0; empty for a host name
    std::uint16_t first_port = 0;
    std::uint16_t last_port = 0;
    std::string host{}; ///< empty for an address

    bool operator==(const Peer &) const = default;
};

} // namespace synergy

template <> struct std::hash<synergy::Endpoint> {
    std::size_t operator()(const synergy::Endpoint &endpoint) const noexcept;
};
