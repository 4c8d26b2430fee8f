#include "hops/addresses.h"

#include "base/socket.h"

#include <cstring>
#include <fstream>
#include <ifaddrs.h>
#include <linux/if_addr.h>
#include <map>
#include <sstream>

namespace synergy {

namespace {

std::uint32_t v4_number(const Endpoint &address) {
    return ntohl(reinterpret_cast<const sockaddr_in *>(address.data())->sin_addr.s_addr);
}

const std::uint8_t *v6_bytes(const Endpoint &address) {
    return reinterpret_cast<const sockaddr_in6 *>(address.data())->sin6_addr.s6_addr;
}

struct V4Block {
    std::uint32_t first;
    unsigned bits;
};

constexpr V4Block private_blocks[] = {
    {0x0a000000, 8}, {0xac100000, 12}, {0xc0a80000, 16}, {0x64400000, 10}};

constexpr unsigned v4_site_bits = 24;
constexpr std::size_t v6_site_bytes = 7;

/// "20010db8000a...": as /proc/net/if_inet6 has it.
std::string hexadecimal(const Endpoint &address) {
    constexpr char digits[] = "0123456789abcdef";
    std::string text;
    for (std::size_t i = 0; i < sizeof(in6_addr); i++) {
        text.push_back(digits[v6_bytes(address)[i] >> 4U]);
        text.push_back(digits[v6_bytes(address)[i] & 0xfU]);
    }
    return text;
}

/// Those that come and go, or may not be used yet or any more.
bool is_passing(const Endpoint &address) {
    constexpr unsigned passing =
        IFA_F_TEMPORARY | IFA_F_DEPRECATED | IFA_F_TENTATIVE | IFA_F_DADFAILED;
    if (address.family() != AF_INET6)
        return false;
    std::ifstream table("/proc/self/net/if_inet6");
    const std::string wanted = hexadecimal(address);
    for (std::string line; std::getline(table, line);) {
        std::istringstream fields(line);
        std::string number;
        unsigned index = 0;
        unsigned length = 0;
        unsigned scope = 0;
        unsigned flags = 0;
        if (fields >> number >> std::hex >> index >> length >> scope >> flags && number == wanted)
            return (flags & passing) != 0;
    }
    return false;
}

} // namespace

bool is_private(const Endpoint &any) {
    const Endpoint address = any.unmapped();
    if (address.family() == AF_INET6)
        return (v6_bytes(address)[0] & 0xfeU) == 0xfcU;
    if (address.family() != AF_INET)
        return false;
    for (const V4Block &block : private_blocks)
        if ((v4_number(address) ^ block.first) >> (32 - block.bits) == 0)
            return true;
    return false;
}

bool is_link_local(const Endpoint &any) {
    const Endpoint address = any.unmapped();
    if (address.family() == AF_INET6)
        return v6_bytes(address)[0] == 0xfeU && (v6_bytes(address)[1] & 0xc0U) == 0x80U;
    return address.family() == AF_INET && v4_number(address) >> 16 == 0xa9feU;
}

bool is_same_site(const Endpoint &one, const Endpoint &other) {
    const Endpoint a = one.unmapped();
    const Endpoint b = other.unmapped();
    if (a.family() != b.family() || a.empty())
        return false;
    if (a.family() == AF_INET)
        return (v4_number(a) ^ v4_number(b)) >> (32 - v4_site_bits) == 0;
    return std::memcmp(v6_bytes(a), v6_bytes(b), v6_site_bytes) == 0;
}

bool is_own_address(const Endpoint &address) {
    const Socket probe = Socket::open(address.family(), SOCK_DGRAM);
    const Endpoint any = address.with_port(0);
    return !probe || ::bind(probe.fd(), any.data(), any.length()) == 0 || errno != EADDRNOTAVAIL;
}

std::vector<Endpoint> other_addresses(const Endpoint &any) {
    const Endpoint own = any.unmapped();
    std::vector<Endpoint> others;
    ifaddrs *all = nullptr;
    if (getifaddrs(&all) != 0)
        return others;
    std::string interface;
    std::multimap<std::string, Endpoint> addresses;
    for (const ifaddrs *each = all; each != nullptr; each = each->ifa_next) {
        if (each->ifa_addr == nullptr || each->ifa_addr->sa_family != own.family())
            continue;
        const Endpoint found = Endpoint::from(each->ifa_addr, own.length());
        // "eth0:1" is another name for an address on eth0.
        const std::string name(each->ifa_name, std::strcspn(each->ifa_name, ":"));
        if (found.same_address(own))
            interface = name;
        else
            addresses.emplace(name, found.with_port(0));
    }
    freeifaddrs(all);
    const auto [begin, end] = addresses.equal_range(interface);
    for (auto each = begin; each != end; ++each)
        if (!is_link_local(each->second) && is_private(each->second) == is_private(own) &&
            !is_passing(each->second))
            others.push_back(each->second);
    return others;
}

std::string address_objection(const Endpoint &source, const Endpoint &peer) {
    if (peer.is_loopback() || source.empty() || is_link_local(peer))
        return {};
    if (is_private(source) && !is_private(peer))
        return "this host's own address is " + source.unmapped().address_text() +
               ", which is private: a NAT lies on the way, and the peer's answers are for another "
               "address. Only where nothing rewrites addresses or ports can anybody come in";
    if (is_private(peer) && !is_private(source))
        return "the address is private, and this host's (" + source.unmapped().address_text() +
               ") is not: from here it can't be the peer's. Set the one that others see it by";
    return {};
}

} // namespace synergy
