#include "network.h"

#include "hops/addresses.h"

#include <arpa/inet.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/icmp6.h>
#include <netinet/ip6.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <system_error>
#include <unistd.h>

namespace harness {

using namespace synergy;

namespace {

using Bytes = std::vector<std::uint8_t>;

[[noreturn]] void give_up(const std::string &what) {
    throw std::system_error(errno, std::generic_category(), what);
}

Socket this_network() {
    Socket network(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    if (!network)
        give_up("/proc/thread-self/ns/net");
    return network;
}

void enter(const Socket &network) {
    if (::setns(network.fd(), CLONE_NEWNET) != 0)
        give_up("setns");
}

void run_here(const std::string &command) {
    if (std::system(command.c_str()) != 0)
        throw std::runtime_error(command);
}

/// A device by which this process gets whatever the kernel sends out of its network.
Socket device(const std::string &addresses) {
    Socket tun(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
    ifreq request{};
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    std::strcpy(request.ifr_name, "path");
    if (!tun || ::ioctl(tun.fd(), TUNSETIFF, &request) != 0)
        give_up("/dev/net/tun");
    run_here("ip link set lo up && ip link set path up && " + addresses +
             " && ip -4 route add default dev path && ip -6 route add default dev path");
    return tun;
}

/// RFC 1071, over what `sum` begins with.
std::uint16_t checksum(const std::uint8_t *data, std::size_t size, std::uint32_t sum = 0) {
    for (std::size_t i = 0; i < size; i++)
        sum += static_cast<std::uint32_t>(data[i]) << (i % 2 == 0 ? 8 : 0);
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons(static_cast<std::uint16_t>(~sum & 0xffff));
}

/// Of the addresses and the length, which checksums above IP cover too; addresses adjacent.
std::uint32_t pseudo_header(const std::uint8_t *addresses, std::size_t size, std::size_t length,
                            int protocol) {
    std::uint32_t sum = static_cast<std::uint32_t>(length) + static_cast<std::uint32_t>(protocol);
    for (std::size_t i = 0; i < size; i += 2)
        sum += static_cast<std::uint32_t>(addresses[i] << 8 | addresses[i + 1]);
    return sum;
}

bool is_v6(const Bytes &bytes) {
    return bytes[0] >> 4 == 6;
}

std::size_t header_size(const Bytes &bytes) {
    return is_v6(bytes) ? sizeof(ip6_hdr) : std::size_t(bytes[0] & 15) * 4;
}

void set_hop_limit(Bytes &bytes, int hop_limit) {
    bytes[is_v6(bytes) ? 7 : 8] = static_cast<std::uint8_t>(hop_limit);
    if (is_v6(bytes))
        return;
    bytes[10] = bytes[11] = 0;
    const std::uint16_t sum = checksum(bytes.data(), header_size(bytes));
    std::memcpy(&bytes[10], &sum, sizeof sum);
}

/// A packet with its header, as it comes from one address to another.
Bytes packet(int protocol, const Endpoint &from, const Endpoint &to, const Bytes &content,
             int hop_limit, std::size_t checksum_at) {
    Bytes bytes;
    const std::size_t length = content.size();
    if (from.family() == AF_INET6) {
        bytes.resize(sizeof(ip6_hdr));
        bytes[0] = 6 << 4;
        bytes[4] = static_cast<std::uint8_t>(length >> 8);
        bytes[5] = static_cast<std::uint8_t>(length);
        bytes[6] = static_cast<std::uint8_t>(protocol);
        bytes[7] = static_cast<std::uint8_t>(hop_limit);
        std::memcpy(&bytes[8], &reinterpret_cast<const sockaddr_in6 *>(from.data())->sin6_addr, 16);
        std::memcpy(&bytes[24], &reinterpret_cast<const sockaddr_in6 *>(to.data())->sin6_addr, 16);
    } else {
        bytes.resize(20);
        bytes[0] = 4 << 4 | 5;
        bytes[2] = static_cast<std::uint8_t>((length + 20) >> 8);
        bytes[3] = static_cast<std::uint8_t>(length + 20);
        bytes[9] = static_cast<std::uint8_t>(protocol);
        std::memcpy(&bytes[12], &reinterpret_cast<const sockaddr_in *>(from.data())->sin_addr, 4);
        std::memcpy(&bytes[16], &reinterpret_cast<const sockaddr_in *>(to.data())->sin_addr, 4);
        set_hop_limit(bytes, hop_limit);
    }
    const std::size_t header = bytes.size();
    bytes.insert(bytes.end(), content.begin(), content.end());
    const bool covers_addresses = protocol != IPPROTO_ICMP;
    const std::uint32_t sum = !covers_addresses ? 0
                              : from.family() == AF_INET6
                                  ? pseudo_header(&bytes[8], 32, length, protocol)
                                  : pseudo_header(&bytes[12], 8, length, protocol);
    const std::uint16_t check = checksum(&bytes[header], length, sum);
    std::memcpy(&bytes[header + checksum_at], &check, sizeof check);
    return bytes;
}

Endpoint address_in(const Bytes &bytes, std::size_t at, std::uint16_t port) {
    if (is_v6(bytes)) {
        sockaddr_in6 in6{};
        in6.sin6_family = AF_INET6;
        in6.sin6_port = htons(port);
        std::memcpy(&in6.sin6_addr, &bytes[at], 16);
        return Endpoint::from(reinterpret_cast<sockaddr *>(&in6), sizeof in6);
    }
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    std::memcpy(&in.sin_addr, &bytes[at], 4);
    return Endpoint::from(reinterpret_cast<sockaddr *>(&in), sizeof in);
}

std::uint16_t number_at(const Bytes &bytes, std::size_t at) {
    return static_cast<std::uint16_t>(bytes[at] << 8 | bytes[at + 1]);
}

std::uint16_t segment_option(const Bytes &bytes, std::size_t tcp) {
    const std::size_t end = tcp + std::size_t(bytes[tcp + 12] >> 4) * 4;
    for (std::size_t at = tcp + 20; at + 3 < end && bytes[at] != 0;
         at += bytes[at] == 1 ? 1 : bytes[at + 1])
        if (bytes[at] == 2)
            return number_at(bytes, at + 2);
    return 0;
}

Packet read_packet(Bytes bytes, bool is_from_here) {
    Packet packet;
    packet.is_from_here = is_from_here;
    packet.seen = Clock::now();
    const bool v6 = is_v6(bytes);
    const std::size_t header = header_size(bytes);
    packet.hop_limit = bytes[v6 ? 7 : 8];
    packet.protocol = bytes[v6 ? 6 : 9];
    const bool has_ports = packet.protocol == IPPROTO_TCP || packet.protocol == IPPROTO_UDP ||
                           packet.protocol == IPPROTO_SCTP;
    packet.from = address_in(bytes, v6 ? 8 : 12, has_ports ? number_at(bytes, header) : 0);
    packet.to = address_in(bytes, v6 ? 24 : 16, has_ports ? number_at(bytes, header + 2) : 0);
    if (packet.protocol == IPPROTO_TCP) {
        packet.tcp_flags = bytes[header + 13];
        packet.sequence = static_cast<std::uint32_t>(number_at(bytes, header + 4)) << 16 |
                          number_at(bytes, header + 6);
        packet.max_segment = segment_option(bytes, header);
    } else if (packet.protocol == IPPROTO_UDP) {
        packet.payload = bytes.size() - header - sizeof(udphdr);
    } else if (packet.protocol == IPPROTO_SCTP) {
        packet.chunk = bytes[header + 12];
        packet.sequence = static_cast<std::uint32_t>(number_at(bytes, header + 16)) << 16 |
                          number_at(bytes, header + 18);
    }
    packet.bytes = std::move(bytes);
    return packet;
}

} // namespace

Endpoint endpoint(const char *address, std::uint16_t port) {
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(port);
    if (inet_pton(AF_INET6, address, &in6.sin6_addr) == 1)
        return Endpoint::from(reinterpret_cast<sockaddr *>(&in6), sizeof in6);
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    if (inet_pton(AF_INET, address, &in.sin_addr) == 1)
        return Endpoint::from(reinterpret_cast<sockaddr *>(&in), sizeof in);
    throw std::invalid_argument(address);
}

bool Packet::is_syn() const {
    return protocol == IPPROTO_TCP && (tcp_flags & (TH_SYN | TH_ACK)) == TH_SYN;
}

bool Packet::is_init() const {
    return protocol == IPPROTO_SCTP && chunk == 1; // RFC 9260 3.2
}

bool has_sctp() {
    return static_cast<bool>(Socket::open(AF_INET6, SOCK_STREAM, IPPROTO_SCTP));
}

Network::Network(Scheduler &scheduler) : scheduler_(scheduler) {
    const auto make = [](const std::string &addresses, const Endpoint &v6, Socket &network) {
        if (::unshare(CLONE_NEWNET) != 0)
            give_up("unshare");
        network = this_network();
        Socket made = device(addresses);
        // The kernel makes the route to an address of IPv6 after the address, by a work queue.
        for (int tries = 0; !is_own_address(v6); tries++)
            if (tries == 5000 || ::usleep(1000) != 0)
                give_up("the route to an own address");
        return made;
    };
    device_there_ = make("ip addr add 203.0.113.5/24 dev path && "
                         "ip addr add 2001:db8:b::5/64 dev path nodad",
                         there(AF_INET6), there_);
    device_here_ = make("ip addr add 198.51.100.11/24 dev path && "
                        "ip addr add 2001:db8:a::11/64 dev path nodad",
                        here(AF_INET6), here_);
    for (const bool is_here : {false, true}) {
        const int fd = (is_here ? device_here_ : device_there_).fd();
        scheduler_.watch(fd, EPOLLIN, [this, fd, is_here](std::uint32_t) { take(fd, is_here); });
    }
}

Network::~Network() {
    scheduler_.unwatch(device_here_.fd());
    scheduler_.unwatch(device_there_.fd());
}

Endpoint Network::here(int family) {
    return endpoint(family == AF_INET6 ? "2001:db8:a::11" : "198.51.100.11", server_port);
}

Endpoint Network::there(int family) {
    return endpoint(family == AF_INET6 ? "2001:db8:b::5" : "203.0.113.5", peer_port);
}

Endpoint Network::router(int family) {
    return endpoint(family == AF_INET6 ? "2001:db8:ff::1" : "192.0.2.1");
}

Socket Network::socket_there(int family, int type, int protocol) const {
    enter(there_);
    Socket socket = Socket::open(family, type, protocol);
    enter(here_);
    if (!socket)
        give_up("socket");
    return socket;
}

Socket Network::call_from_there(int family, int hop_limit, int type, int protocol) const {
    Socket socket = socket_there(family, type, protocol);
    const Endpoint from = there(family), to = here(family);
    const bool is_v6 = family == AF_INET6;
    socket.set(SOL_SOCKET, SO_REUSEADDR, 1);
    socket.set(is_v6 ? int(IPPROTO_IPV6) : int(IPPROTO_IP), is_v6 ? IPV6_UNICAST_HOPS : IP_TTL,
               hop_limit);
    if (::bind(socket.fd(), from.data(), from.length()) != 0 ||
        (::connect(socket.fd(), to.data(), to.length()) != 0 && errno != EINPROGRESS))
        give_up("a call");
    return socket;
}

void Network::run(const std::string &command) const {
    run_here(command);
}

void Network::take(int device, bool is_from_here) {
    Bytes bytes(65536);
    for (ssize_t size;
         bytes.resize(65536), (size = ::read(device, bytes.data(), bytes.size())) > 0;) {
        bytes.resize(static_cast<std::size_t>(size));
        Packet packet = read_packet(bytes, is_from_here);
        if (packet.to.is_multicast()) // groups are no part of the path
            continue;
        seen.push_back(packet);
        if (packet.hop_limit <= routers) {
            if (error_delay >= Duration::zero())
                scheduler_.at(Clock::now() + error_delay, [this, packet] { report(packet); });
            continue;
        }
        if (!lets_pass(packet))
            continue;
        bring(packet);
    }
}

void Network::bring(const Packet &packet) const {
    Bytes bytes = packet.bytes;
    set_hop_limit(bytes, packet.hop_limit - routers);
    arrive(bytes, !packet.is_from_here);
}

void Network::arrive(Bytes bytes, bool is_here) const {
    const Socket &device = is_here ? device_here_ : device_there_;
    if (::write(device.fd(), bytes.data(), bytes.size()) < 0)
        give_up("write");
}

void Network::refuse(const Packet &packet_of, int hop_limit) {
    tcphdr reset{};
    reset.th_sport = htons(packet_of.to.port());
    reset.th_dport = htons(packet_of.from.port());
    reset.th_ack = htonl(packet_of.sequence + 1);
    reset.th_off = sizeof reset / 4;
    reset.th_flags = TH_RST | TH_ACK;
    const auto *bytes = reinterpret_cast<const std::uint8_t *>(&reset);
    arrive(packet(IPPROTO_TCP, packet_of.to, packet_of.from, Bytes(bytes, bytes + sizeof reset),
                  hop_limit, offsetof(tcphdr, th_sum)),
           packet_of.is_from_here);
}

void Network::report(const Packet &about, int hop_limit, int type_v6, int code_v6, int type_v4,
                     int code_v4) {
    const bool v6 = is_v6(about.bytes);
    Bytes quoted = about.bytes;
    set_hop_limit(quoted, 1); // as the last router found it
    Bytes content{static_cast<std::uint8_t>(v6 ? type_v6 : type_v4),
                  static_cast<std::uint8_t>(v6 ? code_v6 : code_v4),
                  0,
                  0,
                  0,
                  0,
                  0,
                  0};
    content.insert(content.end(), quoted.begin(), quoted.end());
    arrive(packet(v6 ? int(IPPROTO_ICMPV6) : int(IPPROTO_ICMP), router(about.from.family()),
                  about.from, content, hop_limit, 2),
           about.is_from_here);
}

std::vector<Packet> Network::sent_here(const std::function<bool(const Packet &)> &which) const {
    std::vector<Packet> found;
    for (const Packet &packet : seen)
        if (packet.is_from_here && which(packet))
            found.push_back(packet);
    return found;
}

std::vector<Packet> Network::inits() const {
    return sent_here([](const Packet &packet) { return packet.is_init(); });
}

std::vector<Packet> Network::syns() const {
    return sent_here([](const Packet &packet) { return packet.is_syn(); });
}

} // namespace harness
