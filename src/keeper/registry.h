// The server's sockets that have holes, and the holes.
#pragma once

#include "handoff/handoff.h"
#include "hops/hop_finder.h"
#include "punch/udp_punch.h"
#include "server/reach.h"
#include "settings/live_settings.h"

#include <unordered_set>

namespace synergy {

class Registry {
  public:
    /// What the registry asks its owner, and tells it.
    struct Owner {
        /// Whether anybody of the server still has the socket. Corrects its number.
        std::function<bool(ServerSocket &)> locate;
        /// Whether any of these connections is there, by its ends here and there.
        std::function<bool(const std::vector<std::pair<Endpoint, Endpoint>> &)> has_connection;
        /// How many control chunks have come in an SCTP association.
        std::function<std::uint64_t(const Endpoint &from, const Endpoint &to)> control_chunks;
        /// Whether anybody listens at the port of this listener, which is gone.
        std::function<bool(const ServerSocket &)> has_listener;
        /// Whether a TCP port has any sockets but those with these cookies.
        std::function<bool(std::uint16_t port, const std::unordered_set<std::uint64_t> &than)>
            has_others;
        /// The socket with this cookie is gone, and its holes wait for the next one on its port.
        std::function<void(std::uint64_t cookie)> parked;
        /// Which has come.
        std::function<void(std::uint64_t before, std::uint64_t now)> listens_again;
        /// The holes of the socket with this cookie have ended.
        std::function<void(std::uint64_t cookie)> dropped;
        /// Whether the server runs, so that it may be about to listen again.
        std::function<bool()> is_at_work;
        /// Has those answered who have asked for something by now.
        std::function<void()> serve_waiting;
        /// Other ports concern us than before.
        std::function<void()> settings_changed;
    };

    /// `learned_file`: see learned_hops.h.
    Registry(Scheduler &scheduler, const Settings &initial, const std::string &learned_file,
             Handoff &handoff, const Traffic &traffic, Owner owner);

    [[nodiscard]] const Settings &settings() const { return settings_.now(); }
    /// Keeps up with changes of the config file from here on.
    void follow_settings();
    [[nodiscard]] bool has(std::uint64_t cookie) const { return servers_.contains(cookie); }
    [[nodiscard]] const ServerSocket *find(std::uint64_t cookie) const;
    [[nodiscard]] bool is_empty() const { return servers_.empty() && parked_.empty(); }
    [[nodiscard]] bool holds_duplicates() const;
    [[nodiscard]] bool has_datagrams() const;
    /// Whether connections can be given what their listeners have, with the rights of this moment.
    [[nodiscard]] bool can_give_options() const;

    /// Opens a hole of a server's socket toward one peer, or punches again if there is one.
    /// `duplicate` is the socket itself where punches must leave from it (UDP, one-to-many SCTP).
    /// 0, or an errno: of a failed punch, which will be repeated, or ENOENT if there can be no such
    /// hole.
    int open(const ServerSocket &socket, const Target &target, Socket duplicate);
    /// The same for all peers of the settings and those that are expected. 0, or ENOENT.
    int open_all(const ServerSocket &socket, Socket duplicate);
    /// Whether the settings, or synergy_to(), have peers for the socket or may come to have some.
    [[nodiscard]] bool may_have_peers(const ServerSocket &socket) const;
    /// The socket may listen later: `target` is for open() then. 0, or ENOSPC.
    int expect(std::uint64_t cookie, const Target &target);
    /// A process has closed the socket: if nobody else has it, no packet for it leaves after this.
    void closed(std::uint64_t cookie);
    /// Its port is shared with us no more.
    void shut_down(std::uint64_t cookie);
    /// No connection can be handed over to this socket: its holes are not renewed from here on, and
    /// whoever still comes by one is refused.
    void end_holes(std::uint64_t cookie);
    /// Whether a socket of the server's that is not to be shared is in the way of another one.
    [[nodiscard]] bool is_taken(Transport transport, const Endpoint &address, bool takes_v4);
    /// No more of this socket.
    void forget(std::uint64_t cookie);
    /// Ends the holes of sockets that the server no longer has, but for those that wait for the
    /// server to listen again.
    void look_for_closed();
    /// Ends them all. True if there were any.
    bool give_way();
    /// In a new registry: opens the holes again that one had whose process was killed, of which
    /// nothing is left but what it knew. `claim`: whether the socket is to be kept.
    void take_over(const Registry &killed, const std::function<bool(const ServerSocket &)> &claim);
    /// Whether nothing keeps the address from a listener of this user's but what waits for it.
    [[nodiscard]] bool is_kept_for(const Endpoint &address, bool takes_v4, uid_t owner) const;
    /// The server has no process any more. What is kept for the next one, where that finds it, is
    /// so for a while: longer, the longer it takes the server to start. `has_left`: it was not
    /// killed.
    void wait_for_successor(Duration start_up, bool has_left,
                            const std::function<bool(std::uint64_t cookie)> &can_be_found);
    /// Who has bound the port, and is about to listen.
    void successor_has_come();
    /// Whether holes wait for a next listener.
    [[nodiscard]] bool has_parked() const { return !parked_.empty(); }
    [[nodiscard]] bool has_parked_at(std::uint16_t port) const;
    void forget_parked();
    /// A connection of this peer's has come out of the listener's accept().
    void handed_over(std::uint64_t cookie, const Endpoint &peer);

    /// A peer that is declared and has no hole.
    struct Unpunched {
        Endpoint peer;
        std::string reason; ///< in words, a clause without full stop
    };
    struct HoleStatus {
        const Hole &hole;
        const HoleRecord &record;
        Endpoint source;         ///< port 0; empty: there is no route
        Endpoint router;         ///< where punches die; empty: not known
        bool is_refused = false; ///< by somebody on the path, says the path
        bool is_in_use = false;
    };
    struct SocketStatus {
        const ServerSocket &socket;
        std::vector<HoleStatus> holes;
        std::vector<Unpunched> unpunched;
    };
    /// What there is at this moment: what it refers to may go with the next event.
    [[nodiscard]] std::vector<SocketStatus> status() const;

  private:
    using Punches = std::unordered_map<Endpoint, std::unique_ptr<Punch>>;
    struct Server {
        explicit Server(Scheduler &scheduler)
            : advising(scheduler), silence(scheduler), loopback(scheduler), aside(scheduler) {}

        ServerSocket socket;
        Socket duplicate;
        bool is_full = false;           ///< of peers; the log says so
        bool is_reached = false;        ///< a peer has come in
        Timer advising;                 ///< what else there is to say
        Timer silence;                  ///< nobody has come in
        Timer loopback;                 ///< of a peer on this host, too
        const char *obstacle = nullptr; ///< what keeps bells from it; the log says so
        std::vector<Target> declared;   ///< by the settings
        std::vector<Target> on_link;    ///< of them, not punched; the log says so
        std::vector<Target> asked;      ///< by synergy_to()
        ErrorsAside aside; ///< of the punches
        Punches punches;
        /// Of peers that are none any more, for as long as firewalls may hold their holes.
        Punches ending;
        Time parked_at{};    ///< when the listener was closed, or the server ended
        Time in_use_at{};    ///< when it was last seen to have a connection
        Duration kept_for{}; ///< from then on, if nothing else keeps the port from others
    };

    void declare(Server &server);
    static void end_hole(Server &server, Punches::node_type punch);
    static void forget_ended(Server &server);
    static bool can_be_rung_at(const Handoff &handoff, Server &server);
    void settings_changed();
    Server &server_for(const ServerSocket &socket, Socket duplicate);
    void deliver(Socket connection, const Endpoint &peer, const ServerSocket &socket);
    int open_asked(Server &server, const Target &target);
    int open_hole(Server &server, const Target &target, bool is_to_punch = true);
    [[nodiscard]] std::unique_ptr<Punch> make_punch(Server &server, Hole hole) const;
    [[nodiscard]] std::string why_unpunched(const Server &server, const Target &target) const;
    void hops_found(const Endpoint &peer);
    void forget_ways();
    void look_from_time_to_time();
    [[nodiscard]] bool may_park(Server &server, bool is_for_others) const;
    [[nodiscard]] bool has_connection(const Server &server) const;
    /// `is_for_others`: somebody wants the port for himself.
    void look_at_parked(bool is_for_others);
    void forget_parked(std::uint64_t cookie);
    void take_up_parked(const ServerSocket &socket);
    void say_opened(const Hole &hole);
    void advise(Server &server);
    static void advise_of_loopback(const Server &server);
    static void say_other_addresses(const Hole &hole, const Endpoint &own);
    void say_silence(Server &server) const;
    void say_nobody(const ServerSocket &socket);
    [[nodiscard]] Endpoint source_toward(const Hole &hole) const;
    [[nodiscard]] Time &when_began(const Hole &hole);
    bool check_alive(const ServerSocket &socket);
    [[nodiscard]] std::vector<std::uint64_t> closed_ones();
    void drop(std::uint64_t cookie, bool may_listen_again = true);

    Scheduler &scheduler_;
    Handoff &handoff_;
    const Owner owner_;
    Timer looking_;
    Timer nobody_;                        ///< for which socket there are any peers
    std::vector<std::string> why_nobody_; ///< for each, a line
    bool is_for_somebody_ = false;        ///< one has had a peer
    LiveSettings settings_;
    HopFinder hop_finder_;
    TimerWheel timers_;
    std::unordered_map<std::string, Time> began_; ///< by Hole::text()
    PunchContext context_;
    std::unordered_map<std::uint64_t, Server> servers_;               ///< by cookie
    std::unordered_map<std::uint64_t, std::vector<Target>> expected_; ///< by cookie
    std::unordered_set<std::uint64_t> unshared_; ///< by cookie: as they were when they were new
    /// Of listeners that are closed, for when the server listens again: by the old cookie.
    std::unordered_map<std::uint64_t, Server> parked_;
    Timer parking_;
    bool has_ended_ = false;      ///< the server has
    Duration new_are_kept_for_{}; ///< of those that are parked from now on: see Server
};

} // namespace synergy
