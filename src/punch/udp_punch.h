// UDP: an empty datagram with a low hop limit, from the server's address. It leaves from a socket
// that is bound beside the server's for the moment of one sendmsg(), so that no datagram that the
// server is putting together is touched (MSG_MORE, UDP_CORK), and nobody holds its port. (The error
// that it brings back is the server's all the same, since the kernel looks up by port who is to
// have it: of a server that asks for errors, see ErrorsAside.) Where there is no room beside, it
// leaves from the server's own: an edge-triggered epoll (EPOLLET) that watches that for EPOLLOUT
// hears that there is room again when the datagram has left, as after any that the server sends.
#pragma once

#include "base/socket.h"
#include "punch/punch.h"

#include <vector>

namespace synergy {

/// What has the errors of a server's punches in its place, where it asks for errors (IP_RECVERR):
/// sockets bound beside it, in one group with it, for as long as an error may be on its way. What
/// comes to the port the kernel gives to the socket that the group's program names, which is the
/// server's. For an error it has no packet to show to a program, and takes the group's socket of
/// the processor that it runs on (SO_INCOMING_CPU, Linux 6.2): ours, since there is one for each.
/// On an older kernel it takes any of them. (So does an error that the server itself has caused,
/// and that comes back in the same moment.)
class ErrorsAside {
  public:
    explicit ErrorsAside(Scheduler &scheduler) : scheduler_(scheduler), end_(scheduler) {}
    ~ErrorsAside() { end(); }
    ErrorsAside(const ErrorsAside &) = delete;
    ErrorsAside &operator=(const ErrorsAside &) = delete;

    /// A socket for one punch, whose error may take so long; -1 where there can be none.
    int socket_for(const ServerSocket &server, Duration longest);

    /// The server's has left the group, as connect() makes the kernel do with it
    /// (udp_lib_rehash()), and what comes to its port would be for the first of these: it is the
    /// first again.
    void group_anew(const ServerSocket &server);

    /// The errors that are yet to come are the server's.
    void end();

  private:
    void open(const ServerSocket &server);
    void close();
    void error_came(const Socket &socket);

    Scheduler &scheduler_;
    std::vector<Socket> sockets_;
    unsigned awaited_ = 0; ///< errors
    Time ends_at_{};
    Timer end_;
};

class UdpPunch final : public Punch {
  public:
    /// `fd`: a duplicate of the server's socket, whose owner outlives the punch; -1: there is room
    /// beside.
    /// `aside`: of the same server, for all its holes.
    UdpPunch(const PunchContext &context, Hole hole, int fd, ErrorsAside &aside);

    int open() override { return punch(); }

  private:
    void renew();
    int punch();
    [[nodiscard]] int send();
    [[nodiscard]] bool would_take_error();
    [[nodiscard]] Duration error_time() const;
    [[nodiscard]] int send_from(int fd, const Endpoint &peer) const;
    [[nodiscard]] Endpoint source() const;

    int fd_;
    ErrorsAside &aside_;
    Timer timer_;
    unsigned failures_ = 0;
    bool is_heard_ = false;
    bool has_left_error_ = false; ///< see would_take_error()
    bool is_group_told_ = false;  ///< see send()
};

} // namespace synergy
