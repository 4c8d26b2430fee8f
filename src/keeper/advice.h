// What the log tells the user of a server's holes that is no failure, so that he finds his
// mistakes.
#pragma once

#include "hops/hop_finder.h"
#include "hops/kept_out.h"
#include "keeper/kept_socket.h"
#include "server/socket_diag.h"

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace synergy {

class Advice {
  public:
    Advice(Scheduler &scheduler, HopFinder &hop_finder, const Settings &settings,
           SocketDiag &socket_diag)
        : hop_finder_(hop_finder), settings_(settings), socket_diag_(socket_diag),
          nobody_(scheduler) {}

    void opens(const Hole &hole);
    /// The same of one that is new, and later what is to be said if nobody comes in.
    void opens(KeptSocket &server, const Hole &hole);
    /// What may be wrong with the ways to the peers, once for each way. Whether that may pass.
    bool look_at_ways(const KeptSocket &server);
    /// The peer is this host itself.
    static void own_host(const Hole &hole);
    /// No settings have a peer for this socket. Said where the process opens nothing else: what a
    /// program listens at for its own purposes is no mistake, nor what is there for a moment.
    void nobody(const ServerSocket &socket);
    /// A socket has had some.
    void has_peers() { has_peers_ = true; }

  private:
    static void look_at_loopback(const KeptSocket &server);
    bool object_to_address(const Hole &hole, const Endpoint &own);
    static void say_other_addresses(const Hole &hole, const Endpoint &own);
    void begin_silence(KeptSocket &server, int family) const;
    [[nodiscard]] std::string sctp_kept_in(const KeptSocket &server) const;
    void say_silence(const KeptSocket &server, const KeptOut &kept_out) const;

    HopFinder &hop_finder_;
    const Settings &settings_;
    SocketDiag &socket_diag_;
    Timer nobody_; ///< for which socket there are any peers
    std::vector<std::pair<ServerSocket, std::string>> why_nobody_; ///< for each, a line
    bool has_peers_ = false;
    std::unordered_map<std::string, std::string> objections_; ///< said, by Hole::way_text()
};

} // namespace synergy
