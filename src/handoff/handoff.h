// How a connection that a punch has become gets into the server's accept().
//
// The keeper connects to the listener from this host, so that the listener becomes readable by
// itself, for poll(), epoll or a blocked accept() alike. This connection is the doorbell: whoever
// accepts it knows it by its address, fetches the punched connection from the keeper, and puts it
// in the doorbell's place.
#pragma once

#include "base/scheduler.h"
#include "handoff/bells.h"
#include "server/server_socket.h"
#include "server/socket_diag.h"

#include <functional>
#include <optional>

namespace synergy {

/// Connections on offer.
class Handoff {
  public:
    /// `is_ours`: whether the listener with this cookie is the server's.
    Handoff(Scheduler &scheduler, synergy_page &page, SocketDiag &socket_diag,
            std::function<bool(std::uint64_t cookie)> is_ours)
        : scheduler_(scheduler), bells_(page), socket_diag_(socket_diag),
          is_ours_(std::move(is_ours)) {}

    /// Whether a bell would come to anybody, as far as the kernel tells: not so where the listener
    /// is bound to a device. Nothing is sent.
    [[nodiscard]] bool can_ring(const ServerSocket &listener) const;
    /// Rings at the listener until the connection is fetched.
    void offer(Socket connection, const Endpoint &peer, const ServerSocket &listener);

    struct Fetched {
        Socket connection;
        Endpoint peer;
    };
    /// The connection whose doorbell's other end this is, with all that it would have inherited
    /// from the listener: only who accepted the doorbell can have it.
    std::optional<Fetched> fetch(const Socket &accepted, bool is_blocking);

    /// The listener with this cookie is gone: so are the connections that wait for it.
    void withdraw(std::uint64_t listener);

  private:
    struct Offer {
        Offer(Scheduler &scheduler, Socket what, const Endpoint &from, const ServerSocket &at)
            : connection(std::move(what)), peer(from), listener(at), timer(scheduler) {}

        Socket connection;
        Endpoint peer;
        ServerSocket listener;
        Socket doorbell;
        std::uint16_t port = 0; ///< of the doorbell; 0: it is not ringing
        unsigned unanswered = 0;
        Timer timer;
    };
    using Id = std::uint64_t;

    enum class Heard : std::uint8_t { by_the_server, by_others, by_nobody };

    [[nodiscard]] Heard would_hear(const ServerSocket &listener, const Endpoint &from,
                                   const Endpoint &to) const;
    void ring(Id id);
    bool connect_doorbell(Offer &offer);
    void happened(Id id, std::uint32_t events);
    void silence(Offer &offer);

    Scheduler &scheduler_;
    Bells bells_;
    SocketDiag &socket_diag_;
    const std::function<bool(std::uint64_t cookie)> is_ours_;
    Id next_id_ = 0;
    std::unordered_map<Id, std::unique_ptr<Offer>> offers_;
    std::unordered_map<std::uint16_t, Id> by_port_;
};

} // namespace synergy
