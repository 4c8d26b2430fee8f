// What a strategy needs of the keeper, played by a test, and the server that it punches for.
#pragma once

#include "base/log.h"
#include "harness.h"
#include "network.h"
#include "punch/punch.h"
#include "server/socket_diag.h"

#include <fstream>
#include <memory>
#include <sstream>

namespace harness {

/// In a process of its own (in_child).
struct PunchBench : private synergy::HoleOwner {
    struct Delivered {
        synergy::Socket connection;
        synergy::Endpoint peer;
        std::uint64_t cookie;
    };

    Directory directory;
    synergy::Scheduler scheduler;
    Network network{scheduler};
    synergy::TimerWheel timers;
    synergy::Settings settings;
    std::unique_ptr<synergy_page> page = std::make_unique<synergy_page>();
    synergy::Traffic traffic{*page};
    synergy::Socket socket;       ///< the server's
    synergy::ServerSocket server; ///< what is known of it

    bool is_alive = true;
    std::optional<synergy::Duration> round_trip;
    std::vector<int> proofs, too_high; ///< hop limits
    std::vector<synergy::IcmpError> refusals;
    std::vector<Delivered> delivered;

    std::shared_ptr<synergy::HoleBegin> begin; ///< of whichever hole

    synergy::PunchContext context{
        {.scheduler = scheduler, .timers = timers, .settings = settings, .traffic = traffic},
        *this};

    PunchBench() {
        synergy::log::configure(
            {.level = synergy::LogLevel::debug, .where = directory.path("log")});
    }

    /// Lets others be bound beside it, as the shim has it.
    void serve(const synergy::Endpoint &at, int type = SOCK_STREAM, int protocol = 0) {
        socket = synergy::Socket::open(at.family(), type, protocol);
        socket.set(SOL_SOCKET, SO_REUSEADDR, 1);
        if (type == SOCK_STREAM)
            socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
        if (::bind(socket.fd(), at.data(), at.length()) != 0 ||
            (type != SOCK_DGRAM && ::listen(socket.fd(), 16) != 0))
            throw std::system_error(errno, std::generic_category(), "server");
        server = synergy::describe(socket.fd()).value();
        if (type == SOCK_DGRAM)
            socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
    }
    /// A hole of the server's toward the other host.
    [[nodiscard]] synergy::Hole hole(int family, synergy::HopRange hops) const {
        const synergy::Endpoint peer = Network::there(family);
        const bool is_mapped = server.local.family() == AF_INET6 && family == AF_INET;
        return {.server = server, .peer = is_mapped ? peer.mapped() : peer, .hops = hops};
    }
    [[nodiscard]] synergy::Hole hole(int family, int hops) const {
        return hole(family, synergy::HopRange::only(hops));
    }
    bool run_until(const std::function<bool()> &is_done,
                   synergy::Duration limit = std::chrono::seconds(5)) {
        return harness::run_until(scheduler, is_done, limit);
    }
    void run_for(synergy::Duration time) {
        run_until([] { return false; }, time);
    }
    [[nodiscard]] std::string log() const {
        std::ostringstream text;
        text << std::ifstream(directory.path("log")).rdbuf();
        return text.str();
    }
    /// How often the log says it.
    [[nodiscard]] std::size_t said(const std::string &what) const {
        const std::string text = log();
        std::size_t count = 0;
        for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at++)
            count++;
        return count;
    }

  private:
    bool check_alive(const synergy::ServerSocket &) override { return is_alive; }
    std::uint64_t control_chunks(const synergy::Endpoint &from,
                                 const synergy::Endpoint &to) override {
        return synergy::SocketDiag().control_chunks(from, to).value_or(0);
    }
    std::shared_ptr<synergy::HoleBegin> begin_of(const synergy::Hole &,
                                                 synergy::Duration lifetime) override {
        if (!begin)
            begin = std::make_shared<synergy::HoleBegin>(lifetime);
        return begin;
    }
    void deliver(synergy::Socket connection, const synergy::Endpoint &peer,
                 const synergy::ServerSocket &of) override {
        delivered.push_back({std::move(connection), peer, of.cookie});
    }
    std::optional<synergy::Route> route_of(const synergy::Hole &hole) override {
        return synergy::route_whatever_source(hole.peer, hole.source(settings));
    }
    std::optional<synergy::Hop> find_dying_hop(const synergy::Hole &, int hops) override {
        if (!round_trip)
            return std::nullopt;
        return synergy::Hop{.limit = hops,
                            .answer = synergy::HopAnswer::time_exceeded,
                            .from = {},
                            .round_trip =
                                std::chrono::duration_cast<std::chrono::microseconds>(*round_trip)};
    }
    void proved(const synergy::Hole &, int hops) override { proofs.push_back(hops); }
    void refused(const synergy::Hole &, int hops, const synergy::IcmpError &how) override {
        too_high.push_back(hops);
        refusals.push_back(how);
    }
};

} // namespace harness
