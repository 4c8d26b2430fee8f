// What the tests of TCP's punches see and hear of them.
#pragma once

#include "punch/tcp_punch.h"

#include "punch_bench.h"

#include <netinet/tcp.h>

#include <set>

namespace harness {

#ifndef IPV6_MINHOPCOUNT
constexpr int IPV6_MINHOPCOUNT = 73;
#endif

struct TcpBench : PunchBench {
    /// Whether it is what stands behind the punching one.
    [[nodiscard]] static bool is_backstop(int fd) {
        return synergy::get_option(fd, SOL_SOCKET, synergy::bind_to_interface) != 0;
    }
    /// The socket that is in SYN_SENT; -1: there is none.
    [[nodiscard]] static int punching() {
        for (const int fd : open_descriptors()) {
            tcp_info info{};
            socklen_t length = sizeof info;
            if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
                info.tcpi_state == TCP_SYN_SENT && !is_backstop(fd))
                return fd;
        }
        return -1;
    }
    [[nodiscard]] static bool is_deaf() {
        return synergy::get_option(punching(), IPPROTO_IPV6, IPV6_MINHOPCOUNT) != 0;
    }
    bool run_until_heard() {
        return run_until([] { return !is_deaf(); });
    }
    [[nodiscard]] std::vector<Packet> answers() const {
        return network.sent_here(
            [](const Packet &packet) { return packet.tcp_flags == (TH_SYN | TH_ACK); });
    }
    /// The SYNs that the server's port has sent, with its answers.
    [[nodiscard]] std::vector<Packet> own_syns() const {
        return network.sent_here([this](const Packet &packet) {
            return (packet.tcp_flags & TH_SYN) != 0 && packet.from.port() == server.local.port();
        });
    }
    [[nodiscard]] static std::set<std::uint32_t> numbers_of(const std::vector<Packet> &packets) {
        std::set<std::uint32_t> numbers;
        for (const Packet &packet : packets)
            numbers.insert(packet.sequence);
        return numbers;
    }
    [[nodiscard]] bool has_seen_syns(std::size_t count) const {
        return network.syns().size() >= count;
    }
};

} // namespace harness
