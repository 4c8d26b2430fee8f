// The server's sockets that have holes, and the holes.
#pragma once

#include "handoff/handoff.h"
#include "hops/hop_finder.h"
#include "keeper/succession.h"
#include "punch/punch.h"
#include "settings/live_settings.h"

#include <array>

namespace synergy {

/// The peer as this socket can reach it (v4-mapped where it must be); empty if it can't.
Endpoint reachable(const ServerSocket &socket, const Endpoint &peer);

/// Whether the settings have a peer that the socket can reach.
bool has_declared(const Settings &settings, const ServerSocket &socket);

class Registry {
  public:
    /// `self` is where this process's engine is asked for what it keeps.
    Registry(Scheduler &scheduler, const Settings &initial, Handoff &handoff,
             const EngineAddress &self);

    /// Opens a hole of a server's socket toward one peer, or punches again if there is one.
    /// `duplicate` is the socket itself where punches must leave from it (UDP, one-to-many SCTP).
    /// 0, or an errno: of a failed punch, which will be repeated, or ENOENT if there can be no such
    /// hole.
    int open(const ServerSocket &socket, const Target &target, Socket duplicate);
    /// The same for all peers of the settings and those that are expected, as soon as no other
    /// process keeps the holes of the socket. 0, or ENOENT.
    int open_all(const ServerSocket &socket, Socket duplicate);
    /// The socket may listen later: `target` is for open() then.
    void expect(const ServerSocket &socket, const Target &target);
    /// The server is about to close this descriptor: no packet for it leaves after this.
    void close(int fd);
    /// Ends the holes of sockets that the server no longer has. True if there were any.
    bool give_way();

  private:
    struct Server {
        explicit Server(Scheduler &scheduler) : settling(scheduler) {}

        ServerSocket socket;
        Socket duplicate;
        Time settles{}; ///< no punch for the settings' peers before
        Timer settling;
        bool is_full = false;                      ///< of peers; the log says so
        bool is_kept = false;                      ///< this process punches for the settings' peers
        std::vector<Target> declared;              ///< by the settings
        std::vector<Target> on_link;               ///< of them, not punched; the log says so
        std::vector<Target> asked;                 ///< by synergy_to()
        std::array<std::vector<Socket>, 2> spares; ///< for IPv6 and for IPv4
        std::unordered_map<Endpoint, std::unique_ptr<Punch>> punches;
    };

    struct Expected {
        int fd;
        std::vector<Target> targets;
    };

    void declare(Server &server);
    void settings_changed();
    Server &server_for(const ServerSocket &socket, Socket duplicate);
    int open_asked(Server &server, const Target &target);
    int open_hole(Server &server, const Target &target, bool is_to_punch = true);
    void keep(std::uint64_t inode);
    void bind_spares(Server &server) const;
    Socket spare(const ServerSocket &socket, bool is_v4);
    void hops_found(const Endpoint &peer);
    void forget_ways();
    [[nodiscard]] std::size_t spares_room() const;
    void look_for_closed();
    [[nodiscard]] Endpoint source_toward(const Hole &hole) const;
    bool is_alive(const ServerSocket &socket);
    void drop(std::uint64_t inode);

    Scheduler &scheduler_;
    Handoff &handoff_;
    Timer looking_;
    bool is_looking_ = false;
    LiveSettings settings_;
    ServerDescriptors descriptors_;
    HopFinder hop_finder_;
    TimerWheel timers_;
    PunchContext context_;
    std::unordered_map<std::uint64_t, Server> servers_;    ///< by inode
    std::unordered_map<std::uint64_t, Expected> expected_; ///< by inode
    Succession succession_;
};

} // namespace synergy
