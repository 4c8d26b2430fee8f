// The server's sockets that have holes, and the holes.
#pragma once

#include "handoff/handoff.h"
#include "hops/hop_finder.h"
#include "keeper/advice.h"
#include "keeper/expected_peers.h"
#include "keeper/hole_begins.h"
#include "keeper/hole_status.h"
#include "keeper/kept_socket.h"
#include "keeper/parked_listeners.h"
#include "keeper/registry_owner.h"
#include "keeper/shared_port.h"
#include "server/reach.h"
#include "settings/live_settings.h"

#include <unordered_set>

namespace synergy {

class Registry : private HoleOwner {
  public:
    /// `learned_file`: see learned_hops.h.
    Registry(Scheduler &scheduler, const Settings &initial, const std::string &learned_file,
             Handoff &handoff, const Traffic &traffic, SocketDiag &socket_diag,
             RegistryOwner &owner);

    [[nodiscard]] const Settings &settings() const { return settings_.now(); }
    /// Keeps up with changes of the config file from here on.
    void follow_settings();
    [[nodiscard]] bool has(std::uint64_t cookie) const { return servers_.contains(cookie); }
    [[nodiscard]] const ServerSocket *find(std::uint64_t cookie) const;
    [[nodiscard]] bool is_empty() const { return servers_.empty() && parked_.all().empty(); }
    [[nodiscard]] bool holds_duplicates() const;
    [[nodiscard]] bool has_datagrams() const;
    /// Whether connections can be given what their listeners have, with the rights of this moment.
    [[nodiscard]] bool can_give_options() const;

    /// Opens a hole of a server's socket toward one peer, or punches again if there is one.
    /// `duplicate` is the socket itself where punches must leave from it (UDP, one-to-many SCTP).
    /// 0, or an errno: of a failed punch, which will be repeated, or ENOENT if there can be no such
    /// hole.
    /// Where an `obstacle` keeps bells from it, not before that has passed.
    int open(const ServerSocket &socket, const Target &target, Socket duplicate,
             const Obstacle *obstacle = nullptr);
    /// The same for all peers of the settings and those that are expected. 0, or ENOENT.
    int open_all(const ServerSocket &socket, Socket duplicate, const Obstacle *obstacle = nullptr);
    /// Whether the settings, or synergy_to(), have peers for the socket or may come to have some.
    [[nodiscard]] bool may_have_peers(const ServerSocket &socket) const;
    /// The socket may listen later: `target` is for open() then. 0, or ENOSPC.
    int expect(std::uint64_t cookie, const Target &target) { return expected_.add(cookie, target); }
    /// A process has closed the socket: if nobody else has it, no packet for it leaves after this.
    void closed(std::uint64_t cookie);
    /// What was not read of a socket that is about to listen, since no punch needs it.
    void add_later_options(std::uint64_t cookie, int fd);
    /// Whoever listens there next finds its holes.
    void has_listened(std::uint64_t cookie);
    /// Its port is shared with us no more.
    void shut_down(std::uint64_t cookie);
    /// No connection can be handed over to this socket: its holes are not renewed from here on, and
    /// whoever still comes by one is refused.
    void end_holes(std::uint64_t cookie);
    /// Some can be, again.
    void open_holes(std::uint64_t cookie);
    /// The socket of the server's that is not to be shared and in the way of another one; nullptr:
    /// there is none.
    [[nodiscard]] const ServerSocket *in_the_way(Transport transport, const Endpoint &address,
                                                 bool takes_v4);
    /// No more of this socket.
    void forget(std::uint64_t cookie);
    /// Ends the holes of sockets that the server no longer has, but for those that wait for the
    /// server to listen again.
    void look_for_closed();
    /// Ends them all, but for those that keep a port taken as it would be without us; at the port,
    /// if it is not 0, also these. True if there were any.
    bool give_way(std::uint16_t port);
    /// What has the errors of punches from the port (UDP) ends, in whose way it stands by now: the
    /// server's own socket has no longer the address that it had (connect()).
    void let_errors_come(std::uint16_t port);
    /// In a new registry: opens the holes again that one had whose process was killed, of which
    /// nothing is left but what it knew. `claim`: whether the socket is to be kept.
    void take_over(const Registry &killed, const std::function<bool(const ServerSocket &)> &claim);
    /// The server has no process any more. What is kept for the next one, where that finds it, is
    /// so for a while: longer, the longer it takes the server to start. `has_left`: it was not
    /// killed.
    void wait_for_successor(Duration start_up, bool has_left,
                            const std::function<bool(std::uint64_t cookie)> &can_be_found);
    /// Who shares one of the ports.
    [[nodiscard]] SharedPort &shared_port() { return shared_port_; }
    /// What waits for the server to listen again.
    [[nodiscard]] ParkedListeners &parked() { return parked_; }
    [[nodiscard]] const ParkedListeners &parked() const { return parked_; }
    /// The server calls the peer from the port that it listens on. False where no punch has those
    /// ends.
    bool make_way(const Endpoint &local, const Endpoint &peer);
    /// A connection of this peer's has come out of the listener's accept().
    void handed_over(std::uint64_t cookie, const Endpoint &peer);

    /// What there is at this moment: what it refers to may go with the next event.
    [[nodiscard]] std::vector<SocketStatus> status() const {
        return status_of(servers_, context_.settings, hop_finder_, handoff_);
    }

  private:
    bool check_alive(const ServerSocket &socket) override;
    std::uint64_t control_chunks(const Endpoint &from, const Endpoint &to) override;
    std::shared_ptr<HoleBegin> begin_of(const Hole &hole, Duration lifetime) override {
        return begins_.of(hole, lifetime);
    }
    void deliver(Socket connection, const Endpoint &peer, const ServerSocket &socket) override;
    std::optional<Route> route_of(const Hole &hole) override;
    std::optional<Hop> find_dying_hop(const Hole &hole, int hop_limit) override;
    void proved(const Hole &hole, int hop_limit) override;
    void refused(const Hole &hole, int hop_limit, const IcmpError &how) override;

    void declare(KeptSocket &server);
    static void end_hole(KeptSocket &server, KeptSocket::Punches::node_type punch);
    static void forget_ended(KeptSocket &server);
    bool can_be_rung_at(KeptSocket &server);
    void find_obstacle(KeptSocket &server, const Obstacle *obstacle);
    void open_holes(KeptSocket &server);
    void advise(KeptSocket &server);
    void settings_changed();
    KeptSocket &server_for(const ServerSocket &socket, Socket duplicate);
    int open_asked(KeptSocket &server, const Target &target);
    int open_hole(KeptSocket &server, const Target &target, bool is_to_punch = true);
    [[nodiscard]] std::unique_ptr<Punch> make_punch(KeptSocket &server, Hole hole) const;
    void hops_found(const Endpoint &peer);
    void forget_ways();
    void look_from_time_to_time();
    [[nodiscard]] std::vector<std::uint64_t> closed_ones();
    void drop(std::uint64_t cookie, bool may_listen_again = true);

    Scheduler &scheduler_;
    Handoff &handoff_;
    SocketDiag &socket_diag_;
    RegistryOwner &owner_;
    Timer looking_;
    LiveSettings settings_;
    HopFinder hop_finder_;
    Advice advice_;
    TimerWheel timers_;
    HoleBegins begins_;
    RecentRoute route_;
    PunchContext context_;
    KeptSockets servers_;
    ExpectedPeers expected_;
    std::unordered_set<std::uint64_t> unshared_; ///< cookies of those that the server had not
                                                 ///< given SO_REUSEPORT when they were first shown
    ParkedListeners parked_;
    SharedPort shared_port_;
};

} // namespace synergy
