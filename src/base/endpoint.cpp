#include "base/endpoint.h"

#include <arpa/inet.h>
#include <net/if.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace synergy {

namespace {

/// RFC 2133 had no scope in sockaddr_in6; the kernel still takes addresses of that length.
constexpr socklen_t in6_length_without_scope = offsetof(sockaddr_in6, sin6_scope_id);

} // namespace

const char *name(Transport transport) {
    switch (transport) {
    case Transport::tcp:
        return "tcp";
    case Transport::udp:
        return "udp";
    case Transport::sctp:
        return "sctp";
    }
    return "?";
}

int protocol_of(Transport transport) {
    switch (transport) {
    case Transport::tcp:
        return IPPROTO_TCP;
    case Transport::udp:
        return IPPROTO_UDP;
    case Transport::sctp:
        return IPPROTO_SCTP;
    }
    return 0;
}

Endpoint Endpoint::from(const sockaddr *address, socklen_t length) {
    Endpoint endpoint;
    sa_family_t family = AF_UNSPEC;
    if (address == nullptr || length < sizeof(family))
        return endpoint;
    // The caller's bytes need not be aligned.
    std::memcpy(&family, address, sizeof(family));
    if (family == AF_INET && length >= sizeof(sockaddr_in)) {
        sockaddr_in in;
        std::memcpy(&in, address, sizeof(in));
        endpoint.any_.in.sin_family = AF_INET;
        endpoint.any_.in.sin_port = in.sin_port;
        endpoint.any_.in.sin_addr = in.sin_addr;
    } else if (family == AF_INET6 && length >= in6_length_without_scope) {
        std::memcpy(&endpoint.any_.in6, address,
                    std::min<std::size_t>(length, sizeof(sockaddr_in6)));
        // A flow label says nothing about who is meant.
        endpoint.any_.in6.sin6_flowinfo = 0;
    }
    return endpoint;
}

Endpoint Endpoint::wildcard(int family, std::uint16_t port) {
    Endpoint endpoint;
    if (family == AF_INET || family == AF_INET6)
        endpoint.any_.sa.sa_family = static_cast<sa_family_t>(family);
    return endpoint.with_port(port); // the wildcard is all zeros in both families
}

Endpoint Endpoint::loopback(int family, std::uint16_t port) {
    Endpoint endpoint = wildcard(family, port);
    if (family == AF_INET)
        endpoint.any_.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else if (family == AF_INET6)
        endpoint.any_.in6.sin6_addr = in6addr_loopback;
    return endpoint;
}

const sockaddr *Endpoint::data() const {
    return &any_.sa;
}

socklen_t Endpoint::length() const {
    switch (family()) {
    case AF_INET:
        return sizeof(sockaddr_in);
    case AF_INET6:
        return sizeof(sockaddr_in6);
    default:
        return 0;
    }
}

std::uint16_t Endpoint::port() const {
    switch (family()) {
    case AF_INET:
        return ntohs(any_.in.sin_port);
    case AF_INET6:
        return ntohs(any_.in6.sin6_port);
    default:
        return 0;
    }
}

bool Endpoint::is_wildcard() const {
    const Endpoint plain = unmapped();
    if (plain.family() == AF_INET)
        return plain.any_.in.sin_addr.s_addr == htonl(INADDR_ANY);
    return plain.family() == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&plain.any_.in6.sin6_addr);
}

bool Endpoint::is_loopback() const {
    const Endpoint plain = unmapped();
    if (plain.family() == AF_INET)
        return ntohl(plain.any_.in.sin_addr.s_addr) >> IN_CLASSA_NSHIFT == IN_LOOPBACKNET;
    return plain.family() == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&plain.any_.in6.sin6_addr);
}

bool Endpoint::is_link_local() const {
    const Endpoint plain = unmapped();
    if (plain.family() == AF_INET)
        return ntohl(plain.any_.in.sin_addr.s_addr) >> IN_CLASSB_NSHIFT == 0xa9feU;
    return plain.family() == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&plain.any_.in6.sin6_addr);
}

bool Endpoint::is_v4_mapped() const {
    return family() == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&any_.in6.sin6_addr);
}

bool Endpoint::is_multicast() const {
    const Endpoint plain = unmapped();
    if (plain.family() == AF_INET)
        return IN_MULTICAST(ntohl(plain.any_.in.sin_addr.s_addr));
    return plain.family() == AF_INET6 && IN6_IS_ADDR_MULTICAST(&plain.any_.in6.sin6_addr);
}

bool Endpoint::is_broadcast() const {
    const Endpoint plain = unmapped();
    return plain.family() == AF_INET && plain.any_.in.sin_addr.s_addr == htonl(INADDR_BROADCAST);
}

Endpoint Endpoint::with_port(std::uint16_t port) const {
    Endpoint endpoint = *this;
    if (family() == AF_INET)
        endpoint.any_.in.sin_port = htons(port);
    else if (family() == AF_INET6)
        endpoint.any_.in6.sin6_port = htons(port);
    return endpoint;
}

Endpoint Endpoint::mapped() const {
    if (family() != AF_INET)
        return *this;
    Endpoint endpoint = wildcard(AF_INET6, port());
    std::uint8_t *bytes = endpoint.any_.in6.sin6_addr.s6_addr;
    bytes[10] = bytes[11] = 0xff;
    std::memcpy(bytes + 12, &any_.in.sin_addr, sizeof(in_addr));
    return endpoint;
}

Endpoint Endpoint::unmapped() const {
    if (!is_v4_mapped())
        return *this;
    Endpoint endpoint = wildcard(AF_INET, port());
    std::memcpy(&endpoint.any_.in.sin_addr, any_.in6.sin6_addr.s6_addr + 12, sizeof(in_addr));
    return endpoint;
}

bool Endpoint::same_address(const Endpoint &other) const {
    if (family() != other.family())
        return false;
    if (family() == AF_INET)
        return any_.in.sin_addr.s_addr == other.any_.in.sin_addr.s_addr;
    if (family() != AF_INET6)
        return true;
    const std::uint32_t scope = any_.in6.sin6_scope_id;
    const std::uint32_t other_scope = other.any_.in6.sin6_scope_id;
    return IN6_ARE_ADDR_EQUAL(&any_.in6.sin6_addr, &other.any_.in6.sin6_addr) &&
           (scope == other_scope || scope == 0 || other_scope == 0);
}

std::string Endpoint::address_text() const {
    char text[INET6_ADDRSTRLEN] = "";
    if (family() == AF_INET) {
        inet_ntop(AF_INET, &any_.in.sin_addr, text, sizeof(text));
        return text;
    }
    if (family() != AF_INET6)
        return {};
    inet_ntop(AF_INET6, &any_.in6.sin6_addr, text, sizeof(text));
    if (any_.in6.sin6_scope_id == 0)
        return text;
    // As the user wrote it; an interface that is gone has its number alone.
    char name[IF_NAMESIZE] = "";
    const bool is_there = if_indextoname(any_.in6.sin6_scope_id, name) != nullptr;
    return std::string(text).append("%").append(is_there ? name
                                                         : std::to_string(any_.in6.sin6_scope_id));
}

std::string Endpoint::text() const {
    if (empty())
        return {};
    const std::string address = address_text();
    return (family() == AF_INET6 ? "[" + address + "]" : address) + ":" + std::to_string(port());
}

bool Endpoint::operator==(const Endpoint &other) const {
    if (!same_address(other) || port() != other.port())
        return false;
    return family() != AF_INET6 || any_.in6.sin6_scope_id == other.any_.in6.sin6_scope_id;
}

} // namespace synergy

std::size_t
std::hash<synergy::Endpoint>::operator()(const synergy::Endpoint &endpoint) const noexcept {
    // FNV-1a over the socket address: what doesn't count for equality is zero in every Endpoint.
    const auto *bytes = reinterpret_cast<const unsigned char *>(endpoint.data());
    std::uint64_t digest = 0xcbf29ce484222325U;
    for (socklen_t i = 0; i < endpoint.length(); ++i)
        digest = (digest ^ bytes[i]) * 0x100000001b3U;
    return static_cast<std::size_t>(digest);
}
