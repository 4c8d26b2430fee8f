// How a connection that a punch has become gets into the server's accept().
//
// The engine connects to the listener from this host, so that the listener becomes readable by
// itself, for poll(), epoll or a blocked accept() alike. This connection is the doorbell: whoever
// accepts it knows it by its address, fetches the punched connection from the engine, and puts it
// in the doorbell's place.
#pragma once

#include "base/scheduler.h"
#include "keeper/control.h"
#include "keeper/engine_table.h"
#include "keeper/family.h"

namespace synergy {

/// The accepting side: what accept() on `listener` gave as `fd`, with `flags` those of accept4().
/// If it was a doorbell, the descriptor is the punched connection afterwards and `peer` its
/// address. Safe in any process that has the listener, and in a signal handler: no lock, no
/// allocation.
synergy_accepted answer_doorbell(int listener, int fd, int flags, Endpoint &peer);

/// The engine's side: connections on offer.
class Handoff {
  public:
    Handoff(Scheduler &scheduler, Family &family, std::uint8_t slot)
        : scheduler_(scheduler), family_(family), slot_(slot) {}

    /// Rings at the listener until the connection is fetched.
    void offer(Socket connection, const Endpoint &peer, const ServerSocket &listener);
    /// The connection that rang from here.
    Answer fetch(const Endpoint &from, Socket &hand_over);
    /// The connection whose doorbell's other end this is: only who accepted it can have it.
    Answer fetch_by_proof(const Socket &accepted, Socket &hand_over);
    /// The listener is gone: so are the connections that wait for it.
    void withdraw(std::uint64_t listener_inode);

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
        unsigned refused = 0;
        Timer timer;
    };
    using Id = std::uint64_t;

    void ring(Id id);
    bool connect_doorbell(Offer &offer);
    void happened(Id id, std::uint32_t events);
    void silence(Offer &offer);

    Scheduler &scheduler_;
    Family &family_;
    std::uint8_t slot_;
    Id next_id_ = 0;
    std::unordered_map<Id, std::unique_ptr<Offer>> offers_;
    std::unordered_map<std::uint16_t, Id> by_port_;
};

} // namespace synergy
