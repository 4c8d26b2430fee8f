// What tests of both kinds of SCTP punches have in common.
#pragma once

#include "punch_bench.h"

#include <array>
#include <linux/if_ether.h>
#include <pthread.h>
#include <sched.h>
#include <thread>

namespace harness {

/// While it lives, the next SCTP INIT that leaves is met by a packet that was kept, and who has
/// sent it goes on some milliseconds later: by a thread that takes the only processor.
class MetAsItLeaves {
  public:
    MetAsItLeaves(const Network &network, Packet packet)
        : sniffer_(
              synergy::Socket(::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ALL)))),
          thread_([this, &network, packet = std::move(packet)] { meet(network, packet); }) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(0, &one);
        const sched_param first{.sched_priority = 1};
        sched_setaffinity(0, sizeof one, &one);
        pthread_setaffinity_np(thread_.native_handle(), sizeof one, &one);
        pthread_setschedparam(thread_.native_handle(), SCHED_FIFO, &first);
    }
    MetAsItLeaves(const MetAsItLeaves &) = delete;
    MetAsItLeaves &operator=(const MetAsItLeaves &) = delete;
    ~MetAsItLeaves() { thread_.join(); }

  private:
    void meet(const Network &network, const Packet &packet) const {
        constexpr std::size_t protocol = 6, chunk = 40 + 12; // of IPv6
        std::array<std::uint8_t, 128> left{};
        do
            left = {};
        while (::recv(sniffer_.fd(), left.data(), left.size(), 0) > 0 &&
               (left[protocol] != IPPROTO_SCTP || left[chunk] != 1));
        network.bring(packet);
        const synergy::Time until = synergy::Clock::now() + std::chrono::milliseconds(5);
        while (synergy::Clock::now() < until)
            continue;
    }

    synergy::Socket sniffer_;
    std::thread thread_;
};

struct SctpBench : PunchBench {
    bool run_until_sent(std::size_t inits, synergy::Duration limit = std::chrono::seconds(15)) {
        return run_until([&] { return network.inits().size() >= inits; }, limit);
    }
    [[nodiscard]] synergy::Socket call(int family) const {
        return network.call_from_there(family, 64, SOCK_STREAM, IPPROTO_SCTP);
    }

    /// A punch that is opened as a peer's INIT comes; empty: the peer can't call. The server is
    /// there.
    std::unique_ptr<synergy::Punch>
    called_as_it_leaves(const std::function<std::unique_ptr<synergy::Punch>()> &make,
                        bool stays_there) {
        network.lets_pass = [](const Packet &packet) { return packet.is_from_here; };
        caller = call(AF_INET6);
        run_until([&] { return !network.seen.empty(); });
        const Packet called = network.seen.empty() ? Packet{} : network.seen.back();
        if (!called.is_init() || called.is_from_here)
            return nullptr;
        if (!stays_there)
            caller.reset();
        auto punch = make();
        {
            const MetAsItLeaves met(network, called);
            punch->open();
        }
        network.lets_pass = [](const Packet &) { return true; };
        return punch;
    }

    /// The peer's INIT is answered all the way: empty, or where it was not.
    std::string meets_as_it_leaves(const std::function<std::unique_ptr<synergy::Punch>()> &make) {
        const auto punch = called_as_it_leaves(make, true);
        // Before the peer would say it again, which takes 3 s.
        EXPECT_IN_CHILD(run_until([&] { return !proofs.empty(); }, std::chrono::seconds(2)));
        // (The first answer has died, as the punch has.)
        const auto sent = network.sent_here();
        EXPECT_IN_CHILD(sent[0].is_init() && sent[0].hop_limit == 3);
        EXPECT_IN_CHILD(sent[1].chunk == 2 && sent[1].hop_limit == 3);
        EXPECT_IN_CHILD(sent[2].is_init() && sent[2].hop_limit == 64);
        return "";
    }

    synergy::Socket caller;
};

} // namespace harness
