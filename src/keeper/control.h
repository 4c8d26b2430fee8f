// How any thread of a family speaks to an engine's thread: one request and one answer over a Unix
// socket, which also carries descriptors between the tables of the two.
#pragma once

#include "base/scheduler.h"
#include "base/socket.h"
#include "keeper/family.h"
#include "settings/settings.h"

#include <array>
#include <functional>
#include <optional>

namespace synergy {

enum class Kind : std::uint8_t {
    open,     ///< punch for this socket of the server's
    expect,   ///< a peer for a socket that may listen later
    close,    ///< the server is about to close this descriptor
    give_way, ///< close what stands for sockets that the server no longer has
    fetch,    ///< hand over the connection that rang: from this port, or at the end passed along
};

/// A server's socket, as the thread that called listen() or bind() saw it.
struct ServerSocket {
    int fd = -1; ///< its number in the server's table
    std::uint64_t inode = 0;
    uid_t owner = 0; ///< the user that made it
    Transport transport = Transport::tcp;
    Endpoint local;
    Endpoint connected;        ///< whom it is connected to, if at all
    bool takes_v4 = false;     ///< AF_INET6 without IPV6_V6ONLY
    bool defer_accept = false; ///< TCP_DEFER_ACCEPT: accept() waits for data
    int receive_buffer = 0;    ///< set by the server; 0: the kernel's choice
    int send_buffer = 0;
    int max_segment = 0;
    bool one_to_many = false;      ///< SCTP: SOCK_SEQPACKET
    std::uint16_t streams_out = 0; ///< SCTP_INITMSG
    std::uint16_t streams_in = 0;
    std::array<std::uint8_t, 14> events{}; ///< SCTP_EVENTS: the notifications that it asked for

    /// Whether peers come out of accept(), so that other sockets punch beside it; or else they are
    /// heard by the socket itself, which then punches itself.
    [[nodiscard]] bool accepts() const { return transport != Transport::udp && !one_to_many; }
};

struct Request {
    Secret secret{};
    Kind kind = Kind::open;
    Endpoint doorbell; ///< where it rang from
    int fd = -1;
    ServerSocket socket;
    Target target; ///< one peer only, of a caller's own choice; empty: those of the settings
};

struct Answer {
    int result = 0; ///< 0, or an errno
    Endpoint peer;  ///< of a connection handed over
};

/// Sends a request to an engine and waits for the answer, two seconds at most. `pass` is a
/// descriptor to hand over (-1: none), `received` takes the one that comes back. nullopt: no engine
/// answers there, or it is another process than the address says. Takes no lock, allocates nothing.
std::optional<Answer> ask(const EngineAddress &engine, const Request &request, int pass,
                          Socket *received);

/// The engine's end.
class ControlServer {
  public:
    /// What to answer; `passed` is the descriptor that came with the request. A descriptor put into
    /// `hand_over` goes back with the answer.
    using Handler = std::function<Answer(const Request &, Socket passed, Socket &hand_over)>;

    /// Listens under a name of the kernel's choice, and answers who knows the secret; of others it
    /// hears what they fetch with a doorbell in their hands. Throws std::system_error.
    ControlServer(Scheduler &scheduler, const Secret &secret, Handler handler);

    [[nodiscard]] EngineAddress address() const { return address_; }

  private:
    void listen_again();
    void accept_one();
    void expect_soon(int fd, std::uint64_t id);
    void serve(int fd);

    Scheduler &scheduler_;
    Secret secret_;
    Handler handler_;
    Socket listener_;
    EngineAddress address_;
    struct Caller {
        Socket socket;
        std::uint64_t id = 0;
    };

    std::uint64_t next_id_ = 0;
    std::unordered_map<int, Caller> callers_;
};

} // namespace synergy
