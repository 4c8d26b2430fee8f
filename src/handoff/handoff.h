// How a connection that a punch has become gets into the server's accept().
//
// The keeper connects to the listener from this host, so that the listener becomes readable by
// itself, for poll(), epoll or a blocked accept() alike. This connection is the doorbell: whoever
// accepts it knows it by its address and port (wire.h), fetches the punched connection from the
// keeper, and puts it in the doorbell's place.
#pragma once

#include "base/scheduler.h"
#include "handoff/bell_way.h"
#include "handoff/bells.h"
#include "handoff/feeler.h"
#include "server/activity.h"
#include "server/server_socket.h"
#include "server/socket_diag.h"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>

namespace synergy {

/// Connections on offer.
class Handoff {
  public:
    struct Owner {
        /// Whether the listener with this cookie is the server's.
        std::function<bool(std::uint64_t cookie)> is_ours;
        /// No bell is answered there: there is to be no further punch for the listener.
        std::function<void(std::uint64_t cookie)> out_of_reach;
        /// Some are, again.
        std::function<void(std::uint64_t cookie)> in_reach;
        /// What the server's processes do: who has accepted a bell may be kept from answering it.
        std::function<Activity()> activity;
        /// How many of them have ended, and whether one has since there were so many.
        std::function<unsigned()> ends;
        std::function<bool(unsigned ends)> has_one_ended_since;
        /// Whether one that may accept there has set a system call filter unseen, which may end it
        /// for asking.
        std::function<bool(const ServerSocket &listener)> has_unseen_filter;
    };
    Handoff(Scheduler &scheduler, synergy_page &page, SocketDiag &socket_diag, Owner owner)
        : scheduler_(scheduler), page_(page), bells_(page), socket_diag_(socket_diag),
          owner_(std::move(owner)),
          way_(socket_diag, owner_.is_ours,
               [this](std::uint16_t port) { return by_port_.contains(port); }),
          feeler_(scheduler, socket_diag, way_,
                  [this](const ServerSocket &listener, const char *why) { felt(listener, why); }) {}

    /// What keeps every bell from the listener, as far as the kernel tells; nullptr: nothing.
    /// Nothing is sent.
    [[nodiscard]] const Obstacle *obstacle(const ServerSocket &listener) {
        return way_.obstacle(listener);
    }
    /// Why nothing can be handed over to the listener, if that was found out later; or nullptr.
    [[nodiscard]] const char *why_out_of_reach(std::uint64_t listener) const {
        const auto found = out_of_reach_.find(listener);
        return found == out_of_reach_.end() ? nullptr : found->second.c_str();
    }
    [[nodiscard]] bool is_out_of_reach(std::uint64_t listener) const {
        return out_of_reach_.contains(listener);
    }
    /// Whether a connection can be given all that the listener has, as far as the kernel tells. If
    /// not, nothing is offered to it any more.
    bool check_imitable(const ServerSocket &listener);
    /// Whether the kernel has the listener, and with no more than can be given: one question that
    /// is answered by yes nearly always, and tells nothing else.
    [[nodiscard]] bool is_there_as_described(const ServerSocket &listener) const;
    /// Finds out whether bells come through a firewall on this host, once for each listener, by
    /// half a connection, of which the server learns nothing. Where they don't, nothing is offered
    /// to the listener until they do.
    void feel(const ServerSocket &listener) { feeler_.feel(listener); }
    /// Rings at the listener until the connection is fetched. Where no bell can be answered, the
    /// peer gets a reset. `listener` may change, and be another socket on the same port from then
    /// on; it is there until it is withdrawn.
    void offer(Socket connection, const Endpoint &peer, const ServerSocket &listener);

    /// Whether one of this peer's waits to be fetched.
    [[nodiscard]] bool has_waiting(std::uint64_t listener, const Endpoint &peer) const;

    /// The cookies of those that wait.
    [[nodiscard]] std::vector<std::uint64_t> waiting(std::uint64_t listener) const;

    struct Fetched {
        Socket connection;
        Endpoint peer;
        std::uint64_t listener = 0; ///< by cookie
    };
    /// The connection whose doorbell's other end this is, with all that it would have inherited
    /// from the listener: only who accepted the doorbell can have it. Empty where it could not be
    /// given all of that: then the peer gets a reset.
    std::optional<Fetched> fetch(const Socket &accepted, bool is_blocking);

    /// Whether it is a doorbell's other end, as it says, of one that rings no more.
    [[nodiscard]] bool has_rung(const Socket &accepted) const;

    /// Those that wait, which are offered no more.
    [[nodiscard]] std::vector<std::pair<Socket, Endpoint>> take_back(std::uint64_t listener);

    /// The listener that had the cookie `before` is another socket now.
    void listens_again(std::uint64_t before, std::uint64_t now);
    /// The listener with this cookie is gone: so are the connections that wait for it.
    void withdraw(std::uint64_t listener);

  private:
    struct Offer {
        Offer(Scheduler &scheduler, Socket what, const Endpoint &from, const ServerSocket &at)
            : connection(std::move(what)), peer(from), listener(at), timer(scheduler) {}
        /// What was not fetched is reset, as the kernel does with what nobody accepts any more.
        ~Offer();
        Offer(const Offer &) = delete;
        Offer &operator=(const Offer &) = delete;

        Socket connection;
        Endpoint peer;
        const ServerSocket &listener; ///< as it is now
        Socket doorbell;
        std::uint16_t port = 0; ///< of the doorbell; 0: it is not ringing
        unsigned unanswered = 0;
        unsigned wordless = 0;     ///< bells that have ended without a word
        unsigned by_ends = 0;      ///< of them, those that a process's end explains
        unsigned ends = 0;         ///< of the server's processes, when it rang
        std::uint32_t starved = 0; ///< the page's, when it rang
        bool has_said = false;     ///< that it is a bell
        bool is_waiting = false;   ///< for another bell's answer, or for room
        bool is_deferred = false;  ///< its peer has said nothing yet
        Time obstructed{};         ///< since when no bell of it gets to the listener; zero: they do
        Time without_room{}; ///< when the listener last had no room, or the first unheard bell rang
        Time looked{};       ///< last; zero: nobody had accepted the bell
        Duration held{};     ///< for so long somebody has had the bell, as far as was looked
        Timer timer;         ///< to look after the bell, or to ring again
    };
    using Id = std::uint64_t;

    enum class Rung : std::uint8_t { yes, no, heard_by_others, heard_by_nobody };

    void defer(Id id);
    void end_deferral(Offer &offer);
    void ring(Id id);
    void could_not_ring(Id id, int error);
    void rings(Id id);
    [[nodiscard]] bool is_to_wait(Id id) const;
    [[nodiscard]] bool is_full(const ServerSocket &listener) const;
    void answered(std::uint64_t listener);
    void closed_with(Id id, int refusal);
    void closed_without_a_word(Id id);
    Rung connect_doorbell(Offer &offer);
    void introduce(Offer &offer) const;
    void refused(Id id);
    void obstructed(Id id, const char *why);
    void happened(Id id, std::uint32_t events);
    void look_after(Id id);
    void look(Id id);
    void ring_again(Id id, Duration delay);
    [[nodiscard]] bool is_there(const ServerSocket &listener) const;
    bool say_if_starved(const Offer &offer) const;
    void felt(const ServerSocket &listener, const char *why);
    void give_up(const ServerSocket &listener, const std::string &why);
    void forget(std::uint64_t listener);
    void silence(Offer &offer);

    Scheduler &scheduler_;
    const synergy_page &page_;
    Bells bells_;
    SocketDiag &socket_diag_;
    const Owner owner_;
    std::unordered_map<std::uint64_t, std::string> out_of_reach_; ///< why, by listener's cookie
    std::unordered_set<std::uint64_t> answering_; ///< listeners at which a bell has been answered
    Id next_id_ = 0;
    std::map<Id, std::unique_ptr<Offer>> offers_; ///< who has come first is first
    std::unordered_map<std::uint16_t, Id> by_port_;
    BellWay way_;
    Feeler feeler_;
};

} // namespace synergy
