// What the kernel tells of a server's sockets without anybody holding them: sock_diag(7).
#pragma once

#include "base/endpoint.h"
#include "base/scheduler.h"
#include "base/socket.h"

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <unordered_set>
#include <vector>

namespace synergy {

/// Asks in the network namespace of the thread that made it; needs no privilege.
class SocketDiag {
  public:
    SocketDiag();

    /// Whether the kernel answers at all: a sandbox may forbid AF_NETLINK.
    [[nodiscard]] bool works() const { return static_cast<bool>(netlink_); }

    struct Listener;

    /// What a socket is looked for by: its cookie (SO_COOKIE); or its inode, where it is one of
    /// MPTCP (RFC 8684), since the kernel's lists have the TCP socket within it, whose cookie is
    /// another one.
    struct Sought {
        std::uint64_t cookie = 0;
        std::uint64_t inode = 0; ///< 0: the cookie tells
        // NOLINTNEXTLINE(google-explicit-constructor): most are sought by that alone
        Sought(std::uint64_t by_cookie, std::uint64_t by_inode = 0)
            : cookie(by_cookie), inode(by_inode) {}
        [[nodiscard]] bool is(const Listener &listed) const;
    };

    enum class Life : std::uint8_t {
        lives,
        gone,   ///< or it takes no peers any more: a listener that was shut down
        unknown ///< the kernel can't say
    };
    /// Whether this listener (TCP, SCTP) or bound socket (UDP) at this local address still lives,
    /// whoever has it.
    [[nodiscard]] Life life(Transport transport, const Endpoint &local, Sought which);

    /// Whether this TCP socket is bound still, whoever has it, and listens or may yet; what was so
    /// a few milliseconds ago is taken to be. `unknown` before Linux 6.8.
    [[nodiscard]] Life life_until_it_listens(const Endpoint &local, Sought which);

    struct Listener {
        std::uint64_t cookie = 0;
        std::uint32_t inode = 0;
        uid_t user = 0;
        std::uint16_t port = 0; ///< its own
        bool listens = false;
        bool rests = false;              ///< TIME_WAIT
        std::uint32_t waiting = 0;       ///< in a listener's queue, to be accepted
        std::uint32_t room = 0;          ///< in that queue: listen(2)'s backlog
        std::uint32_t option_memory = 0; ///< what it keeps of filters, keys and the like takes this
        std::optional<std::uint64_t> control_chunks{}; ///< that have come in an SCTP association
        std::array<std::uint32_t, 4>
            address{}; ///< its own, as the kernel has it: IPv4 in the first

        /// Which may have been full a moment ago.
        [[nodiscard]] bool is_half_full() const { return waiting * 2 > room; }
    };
    /// The listener or bound socket of life(), where it lives.
    [[nodiscard]] std::optional<Listener> find(Transport transport, const Endpoint &local,
                                               Sought which);
    /// Which TCP listener would get a connection from `from` to `to` by the interface of this
    /// number (if_nametoindex(3)): nothing is sent. Where the connection is there already, its end
    /// at `to`, which has no inode before it is accepted. nullopt and errno: ENOENT where nobody
    /// would, else the kernel can't say. Of SCTP it is told only what is there already, which is
    /// the listener itself before it is accepted.
    [[nodiscard]] std::optional<Listener> who_hears(const Endpoint &from, const Endpoint &to,
                                                    unsigned interface,
                                                    Transport transport = Transport::tcp);

    /// How many control chunks have come in the SCTP association with these ends. nullopt where the
    /// kernel can't say.
    [[nodiscard]] std::optional<std::uint64_t> control_chunks(const Endpoint &from,
                                                              const Endpoint &to);

    /// Whether there is a TCP connection with these ends, in whatever state.
    [[nodiscard]] bool has_connection(const Endpoint &from, const Endpoint &to);
    /// This user's TCP listeners at exactly this address and port, by cookie.
    [[nodiscard]] std::vector<std::uint64_t> listeners_at(const Endpoint &local, uid_t user);
    /// Whether anybody listens for TCP at this port. False where the kernel can't say.
    [[nodiscard]] bool has_listener(const Endpoint &local);
    /// Whether the TCP port has any other sockets than those with these cookies, in whatever state.
    /// True where the kernel can't say.
    [[nodiscard]] bool has_others(std::uint16_t port,
                                  const std::unordered_set<std::uint64_t> &than);

  private:
    struct Reply {
        int error = 0; ///< 0, or the errno that the kernel answers with
        std::vector<Listener> sockets;
    };
    struct Found {
        std::optional<Listener> socket;
        bool is_known = false; ///< the kernel has said so, or that there is none
    };
    struct BoundOnes {
        std::unordered_set<std::uint64_t> cookies, inodes;
        Time at{};
        [[nodiscard]] bool has(const Sought &which) const {
            return which.inode != 0 ? inodes.contains(which.inode) : cookies.contains(which.cookie);
        }
    };
    /// nullptr where the kernel can't say.
    [[nodiscard]] const BoundOnes *look_for_bound_ones(int family);
    [[nodiscard]] bool tells_of_bound_ones();
    [[nodiscard]] Found look_for(Transport transport, const Endpoint &local, Sought which);
    [[nodiscard]] Reply ask(const void *question, std::size_t size, std::uint32_t sequence);

    Socket netlink_;
    std::uint32_t sequence_ = 0;
    std::optional<bool> tells_of_bound_ones_; ///< once it was tried
    std::map<int, BoundOnes> bound_ones_;     ///< by family, at the last look
};

} // namespace synergy
