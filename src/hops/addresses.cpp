#include "hops/addresses.h"

#include "base/socket.h"
#include "hops/route.h"

#include <cstring>
#include <fstream>
#include <ifaddrs.h>
#include <linux/if_addr.h>
#include <map>
#include <net/if.h>
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

/// The flags of IPv6 addresses (linux/if_addr.h): all that any has, of those that are looked at.
template <typename IsMeant> unsigned v6_flags(IsMeant is_meant) {
    std::ifstream table("/proc/self/net/if_inet6");
    unsigned all = 0;
    for (std::string line; std::getline(table, line);) {
        std::istringstream fields(line);
        std::string number;
        unsigned index = 0;
        unsigned length = 0;
        unsigned scope = 0;
        unsigned flags = 0;
        if (fields >> number >> std::hex >> index >> length >> scope >> flags && is_meant(number))
            all |= flags;
    }
    return all;
}

/// Those that come and go, or may not be used yet or any more.
bool is_passing(const Endpoint &address) {
    constexpr unsigned passing =
        IFA_F_TEMPORARY | IFA_F_DEPRECATED | IFA_F_TENTATIVE | IFA_F_DADFAILED;
    if (address.family() != AF_INET6)
        return false;
    const std::string wanted = hexadecimal(address);
    return (v6_flags([&](const std::string &number) { return number == wanted; }) & passing) != 0;
}

/// Not the link-local ones, and not those that another host turned out to have (DADFAILED).
bool is_any_tentative() {
    return (v6_flags([](const std::string &number) { return !number.starts_with("fe8"); }) &
            (IFA_F_TENTATIVE | IFA_F_DADFAILED)) == IFA_F_TENTATIVE;
}

struct OwnAddress {
    Endpoint address; ///< port 0
    std::string interface;
};

std::vector<OwnAddress> own_addresses(int family) {
    std::vector<OwnAddress> found;
    ifaddrs *all = nullptr;
    if (getifaddrs(&all) != 0)
        return found;
    const socklen_t length = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    for (const ifaddrs *each = all; each != nullptr; each = each->ifa_next)
        // "eth0:1" is another name for an address on eth0.
        if (each->ifa_addr != nullptr && each->ifa_addr->sa_family == family)
            found.push_back({Endpoint::from(each->ifa_addr, length).with_port(0),
                             std::string(each->ifa_name, std::strcspn(each->ifa_name, ":"))});
    freeifaddrs(all);
    return found;
}

std::string interface_of(const Endpoint &own, const std::vector<OwnAddress> &all) {
    for (const auto &[address, interface] : all)
        if (address.same_address(own))
            return interface;
    return {};
}

/// What goes from this host to an address of its own leaves from there mostly (not where that is a
/// further one of its network's, in IPv4). Nothing is sent.
bool is_own_source(const Endpoint &address) {
    const Socket probe = Socket::open(address.family(), SOCK_DGRAM);
    return ::connect(probe.fd(), address.data(), address.length()) == 0 &&
           probe.local().same_address(address);
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
    if (is_own_source(address.unmapped().with_port(0)))
        return true;
    const Socket probe = Socket::open(address.family(), SOCK_DGRAM);
    const Endpoint any = address.with_port(0);
    if (probe && ::bind(probe.fd(), any.data(), any.length()) != 0 && errno == EADDRNOTAVAIL)
        return false;
    // With net.ipv4.ip_nonlocal_bind whatever there is can be bound to.
    const auto route = address.is_wildcard() ? std::nullopt : route_whatever_source(any, {});
    return !route || route->is_local;
}

std::vector<Endpoint> other_addresses(const Endpoint &any, const Endpoint &peer) {
    const Endpoint own = any.unmapped();
    const std::vector<OwnAddress> all = own_addresses(own.family());
    const std::string interface = interface_of(own, all);
    if (interface.empty())
        return {};
    std::map<std::string, bool> leads_there{{interface, true}};
    std::vector<Endpoint> others;
    for (const auto &[address, name] : all) {
        if (address.same_address(own) || address.is_link_local() ||
            is_private(address) != is_private(own) || is_passing(address))
            continue;
        const auto [known, is_new] = leads_there.try_emplace(name, false);
        if (is_new)
            known->second = has_way_by(peer, name);
        if (known->second)
            others.push_back(address);
    }
    return others;
}

std::string foreign_source(const Endpoint &peer, const Endpoint &source) {
    const auto route = route_to(peer, source);
    if (!route || route->source.empty())
        return {};
    const std::string owner = interface_of(route->source, own_addresses(route->source.family()));
    char by[IF_NAMESIZE] = {};
    // (What has an address of the loopback interface's, anycast say, has it on all of them.)
    if (owner.empty() || if_indextoname(route->interface, by) == nullptr || owner == by ||
        if_nametoindex(owner.c_str()) == loopback_interface)
        return {};
    const std::string from = route->source.unmapped().address_text();
    return "no router answers what leaves from " + from + " by " + by + ", and " + from +
           " is an address of " + owner +
           "'s: what is not its own may be dropped on the way. Use an address of " + by +
           "'s, or have it sent by " + owner + " (ip rule)";
}

std::string link_objection(const Endpoint &source, const Endpoint &peer) {
    // (An address that is not usable yet will be in a second.)
    if (!source.is_link_local() || peer.is_loopback() || peer.is_link_local() || is_any_tentative())
        return {};
    return "this host has no address for it but " + source.unmapped().address_text() +
           ", which counts on its own link alone: nobody there can answer (ip address)";
}

std::string private_objection(const Endpoint &source, const Endpoint &peer) {
    if (peer.is_loopback() || source.empty() || source.is_link_local() || peer.is_link_local())
        return {};
    if (is_private(source) && !is_private(peer))
        return "this host's own address is " + source.unmapped().address_text() +
               ", which is private: where a NAT puts another in its place, that is the one to "
               "call, "
               "and who calls it comes in only if the NAT keeps the port";
    if (is_private(peer) && !is_private(source))
        return "the address is private, and this host's (" + source.unmapped().address_text() +
               ") is not: from here it can't be the peer's. Set the one that others see it by";
    return {};
}

} // namespace synergy
