// What tests of both kinds of SCTP punches have in common.
#pragma once

#include "punch_bench.h"

#include <algorithm>
#include <array>
#include <linux/if_ether.h>
#include <pthread.h>
#include <sched.h>
#include <thread>
#include <utility>

namespace harness {

/// While it lives, something happens as the next SCTP INIT leaves, and who has sent it goes on some
/// milliseconds later: by a thread that takes the only processor.
class AsItLeaves {
  public:
    explicit AsItLeaves(std::function<void()> happens)
        : sniffer_(
              synergy::Socket(::socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ALL)))),
          thread_([this, happens = std::move(happens)] { wait_for_it(happens); }) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(0, &one);
        const sched_param first{.sched_priority = 1};
        sched_setaffinity(0, sizeof one, &one);
        pthread_setaffinity_np(thread_.native_handle(), sizeof one, &one);
        pthread_setschedparam(thread_.native_handle(), SCHED_FIFO, &first);
    }
    AsItLeaves(const AsItLeaves &) = delete;
    AsItLeaves &operator=(const AsItLeaves &) = delete;
    ~AsItLeaves() { thread_.join(); }

  private:
    void wait_for_it(const std::function<void()> &happens) const {
        constexpr std::size_t protocol = 6, chunk = 40 + 12; // of IPv6
        std::array<std::uint8_t, 128> left{};
        do
            left = {};
        while (::recv(sniffer_.fd(), left.data(), left.size(), 0) > 0 &&
               (left[protocol] != IPPROTO_SCTP || left[chunk] != 1));
        happens();
        const synergy::Time until = synergy::Clock::now() + std::chrono::milliseconds(5);
        while (synergy::Clock::now() < until)
            continue;
    }

    synergy::Socket sniffer_;
    std::thread thread_;
};

struct SctpBench : PunchBench {
    using Maker = std::function<std::unique_ptr<synergy::Punch>()>;

    bool run_until_sent(std::size_t inits, synergy::Duration limit = std::chrono::seconds(15)) {
        return run_until([&] { return network.inits().size() >= inits; }, limit);
    }
    [[nodiscard]] synergy::Socket call(int family) const {
        return network.call_from_there(family, 64, SOCK_STREAM, IPPROTO_SCTP);
    }

    /// A peer that calls once the punch has left, and is in; empty where it is not.
    synergy::Socket get_in(synergy::Punch &punch) {
        if (punch.open() != 0 || !run_until_sent(1))
            return {};
        run_for(std::chrono::milliseconds(300));
        synergy::Socket peer = call(AF_INET6);
        return run_until([&] { return !delivered.empty(); }) ? std::move(peer) : synergy::Socket();
    }

    /// The peer's INIT, which does not come, nor does anything else of the peer's.
    Packet call_that_is_kept() {
        network.lets_pass = [](const Packet &packet) { return packet.is_from_here; };
        caller = call(AF_INET6);
        run_until([&] { return !network.seen.empty(); });
        return network.seen.empty() ? Packet{} : network.seen.back();
    }

    /// A punch that is opened as a peer's INIT comes; empty: the peer can't call. The server is
    /// there.
    std::unique_ptr<synergy::Punch> called_as_it_leaves(const Maker &make, bool stays_there) {
        const Packet called = call_that_is_kept();
        if (!called.is_init() || called.is_from_here)
            return nullptr;
        if (!stays_there)
            caller.reset();
        auto punch = make();
        {
            const AsItLeaves met([&] { network.bring(called); });
            punch->open();
        }
        network.lets_pass = [](const Packet &) { return true; };
        return punch;
    }

    /// The handshake's last packet, which the peer sends where both have called.
    [[nodiscard]] bool has_cookie_ack() const {
        return std::any_of(network.seen.begin(), network.seen.end(), [](const Packet &packet) {
            return !packet.is_from_here && packet.chunk == 11;
        });
    }

    /// The peer, which has called, is there before the punch's call has returned. Empty, or where
    /// it does not stay.
    std::string comes_in_as_it_leaves(const Maker &make) {
        network.routers = 2; // so that the peer is met by the punch, whose hop limit is 3
        EXPECT_IN_CHILD(call_that_is_kept().is_init());
        network.lets_pass = [](const Packet &) { return true; };
        const auto punch = make();
        bool is_in = false;
        {
            const AsItLeaves carried([&] {
                is_in = run_until([&] { return has_cookie_ack(); }, std::chrono::seconds(1));
            });
            punch->open();
        }
        EXPECT_IN_CHILD(is_in && !caller.remote().empty());
        EXPECT_IN_CHILD(run_until([&] { return !proofs.empty(); }, std::chrono::seconds(1)));
        EXPECT_IN_CHILD(!caller.remote().empty());
        EXPECT_IN_CHILD(network.inits().size() == 1);
        return "";
    }

    /// The peer's INIT is answered all the way: empty, or where it was not.
    std::string meets_as_it_leaves(const Maker &make) {
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
