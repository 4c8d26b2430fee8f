// The server's sockets that have holes, and the holes.
#pragma once

#include "handoff.h"
#include "punch.h"

namespace synergy {

/// The peer as this socket can reach it (v4-mapped where it must be); empty if it can't.
Endpoint reachable(const ServerSocket &socket, const Endpoint &peer);

class Registry {
  public:
    Registry(Scheduler &scheduler, const Settings &settings, Handoff &handoff);

    /// Opens the holes of a server's socket toward those of `targets` that it can reach, and those
    /// that are expected, besides those it has; these are punched again. `duplicate` is the socket
    /// itself where punches must leave from it (UDP). 0, or an errno: the first failure of a punch,
    /// which will be repeated; ENOENT if there is no hole at all.
    int open(const ServerSocket &socket, const std::vector<Target> &targets, Socket duplicate);
    /// The socket may listen later: `target` is for open() then.
    void expect(const ServerSocket &socket, const Target &target);
    /// The server is about to close this descriptor: no packet for it leaves after this.
    void close(int fd);
    /// Ends the holes of sockets that the server no longer has. True if there were any.
    bool give_way();

  private:
    struct Server {
        ServerSocket socket;
        Socket duplicate;
        std::unordered_map<Endpoint, std::unique_ptr<Punch>> punches;
    };

    struct Expected {
        int fd;
        std::vector<Target> targets;
    };

    int open_hole(Server &server, const Target &target);
    bool is_alive(const ServerSocket &socket);
    void drop(std::uint64_t inode);

    Scheduler &scheduler_;
    Handoff &handoff_;
    ServerDescriptors descriptors_;
    PunchContext context_;
    std::unordered_map<std::uint64_t, Server> servers_;    ///< by inode
    std::unordered_map<std::uint64_t, Expected> expected_; ///< by inode
};

} // namespace synergy
