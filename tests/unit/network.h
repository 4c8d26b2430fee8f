// Two hosts, which are real kernels in network namespaces, and the path between them, which is the
// test itself: it sees every packet, and says how far it comes and what is answered when.
//
//     here ---- router 1 ---- router 2 ---- ... ---- there
//     2001:db8:a::11                                  2001:db8:b::5
//     198.51.100.11                                   203.0.113.5
#pragma once

#include "base/endpoint.h"
#include "base/scheduler.h"
#include "base/socket.h"

#include <functional>
#include <vector>

namespace harness {

/// Whether this kernel has SCTP. (scripts/test-uml starts one that has.)
bool has_sctp();

/// An IPv6 or IPv4 address; throws where the text is none.
synergy::Endpoint endpoint(const char *address, std::uint16_t port = 0);

/// A packet as it left one of the hosts.
struct Packet {
    bool is_from_here = false;
    int hop_limit = 0;
    int protocol = 0;
    synergy::Endpoint from, to;
    std::uint8_t tcp_flags = 0;
    std::uint32_t sequence = 0; ///< of TCP; of an SCTP INIT its tag
    std::uint16_t max_segment = 0;
    std::size_t payload = 0; ///< of UDP
    std::uint8_t chunk = 0;  ///< of SCTP: the first one's type
    synergy::Time seen;
    std::vector<std::uint8_t> bytes;

    /// A TCP SYN that is no answer.
    [[nodiscard]] bool is_syn() const;
    [[nodiscard]] bool is_init() const;
};

class Network {
  public:
    static constexpr std::uint16_t server_port = 4444, peer_port = 5555;

    /// Puts the process into the network of `here`. To be made in a process of its own (in_child);
    /// throws std::system_error.
    explicit Network(synergy::Scheduler &scheduler);
    ~Network();
    Network(const Network &) = delete;
    Network &operator=(const Network &) = delete;

    static synergy::Endpoint here(int family);  ///< with the server's port
    static synergy::Endpoint there(int family); ///< with the peer's port
    static synergy::Endpoint router(int family);

    /// A socket of the other host's.
    [[nodiscard]] synergy::Socket socket_there(int family, int type, int protocol = 0) const;
    /// One that is bound to the peer's port and connects, or has begun to.
    [[nodiscard]] synergy::Socket call_from_there(int family, int hop_limit = 64,
                                                  int type = SOCK_STREAM, int protocol = 0) const;
    /// Runs a command in the network of `here`; throws where it fails.
    void run(const std::string &command) const;

    int routers = 4;
    /// How long the report of a packet's death takes; none comes where it is negative.
    synergy::Duration error_delay = std::chrono::milliseconds(30);
    /// Asked for each packet that has come all the way, before it arrives: false keeps it.
    std::function<bool(const Packet &)> lets_pass = [](const Packet &) { return true; };
    /// Has one that was kept arrive after all.
    void bring(const Packet &packet) const;
    /// What left the two hosts so far.
    std::vector<Packet> seen;

    /// Those of `seen` that `which` says, and that left `here`.
    [[nodiscard]] std::vector<Packet> sent_here(const std::function<bool(const Packet &)> &which =
                                                    [](const Packet &) { return true; }) const;
    [[nodiscard]] std::vector<Packet> syns() const;
    [[nodiscard]] std::vector<Packet> inits() const;

    /// Has a TCP reset come back for the packet, as a firewall sends it.
    void refuse(const Packet &packet, int hop_limit = 64);
    /// Has an ICMP error come back for the packet, by default: it has died on its way.
    void report(const Packet &packet, int hop_limit = 64, int type_v6 = 3, int code_v6 = 0,
                int type_v4 = 11, int code_v4 = 0);

  private:
    void take(int device, bool is_from_here);
    void arrive(std::vector<std::uint8_t> bytes, bool is_here) const;

    synergy::Scheduler &scheduler_;
    synergy::Socket there_; ///< /proc/self/ns/net
    synergy::Socket here_;
    synergy::Socket device_there_, device_here_;
};

} // namespace harness
