// Where the server's processes ask the keeper: one request, one answer, over a Unix socket that
// also carries descriptors (wire.h).
//
// Anybody on this host may connect. A message is looked at before it is taken, so that what a
// stranger sends along never becomes this process's to close: closing a socket may wait.
#pragma once

#include "base/scheduler.h"
#include "base/socket.h"
#include "wire.h"

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include <sys/types.h>

namespace synergy {

class Control {
  public:
    struct Call {
        const synergy_request &request;
        pid_t process;     ///< who asks, as it was when it connected
        bool is_trusted;   ///< its user could harm this process anyway
        bool knows_secret; ///< is one of the server's processes; others have only what they show
        const Socket &passed;
    };
    struct Reply {
        synergy_answer answer{};
        Socket hand_over{}; ///< goes along
        /// Is told whether it has; if not, it comes back.
        std::function<void(bool is_gone, Socket hand_over)> handed_over{};
        int show = -1;         ///< the same, of a descriptor that stays ours
        bool is_proof = false; ///< what was passed along is the server's
        bool goes_on = false;  ///< who asks will say more by the same connection
        /// What nobody waits for, with what was passed along.
        std::function<void(const Socket &passed)> afterwards{};
    };
    using Handler = std::function<Reply(const Call &)>;

    /// Listens under a name that nobody can know before. `handler` is asked for whoever knows the
    /// secret, for FETCH and MEET of anybody, and for STATUS, BIND, GIVE_WAY, ADOPT and TAKE of the
    /// keeper's user and root. Throws std::system_error.
    Control(Scheduler &scheduler, const synergy_secret &secret, Handler handler);
    ~Control();
    Control(const Control &) = delete;
    Control &operator=(const Control &) = delete;

    /// Sends an answer, with a descriptor if `pass` is not -1.
    /// False if nobody is there.
    static bool tell(const Socket &connection, synergy_answer answer, int pass);

    [[nodiscard]] const synergy_address &address() const { return address_; }

    /// Serves the process that started the keeper by the connection that it left for that.
    void serve_starter(Socket connection, pid_t process);
    /// Has the keeper found by the socket's cookie, too. 0, or EEXIST: another keeper of this user
    /// (or root's) is found there.
    int claim(std::uint64_t cookie);
    /// Has it found by the socket's port. (Where somebody has that name already, it stays with
    /// them.)
    void claim_port(std::uint64_t cookie, int transport, std::uint16_t port);
    [[nodiscard]] bool has_port_of(std::uint64_t cookie) const;
    /// The port is another socket's now.
    void hand_on_port(std::uint64_t before, std::uint64_t now);
    void release_port(std::uint64_t cookie);
    /// The socket's own name alone.
    void release(std::uint64_t cookie);
    /// Those who have called and were not yet looked at.
    void serve_waiting();

  private:
    struct Caller {
        Socket connection;
        pid_t process = 0;
        uid_t user = 0;
        std::uint64_t id = 0;
    };
    struct Message;
    enum class Served : std::uint8_t { nothing_yet, goes_on, done, refused };

    void listen_at(Socket listener);
    void stop(Socket listener);
    bool accept_one(int listener);
    void wait_for(Caller caller, bool goes_on);
    void hear(int fd);
    void wait_no_longer(int fd);
    Served serve(const Caller &caller, bool is_starter);
    void leave(Caller caller);
    void bury(Socket socket);

    Scheduler &scheduler_;
    const synergy_secret &secret_;
    const Handler handler_;
    synergy_address address_{};
    std::unordered_map<int, Socket> listeners_;    ///< by descriptor
    std::unordered_map<std::uint64_t, int> names_; ///< by cookie; so are the others
    std::unordered_map<std::uint64_t, int> ports_;
    std::unordered_map<std::uint64_t, Socket> released_; ///< names that are about to be buried
    std::uint64_t next_id_ = 0;
    std::unordered_map<int, Caller> callers_; ///< who have not said anything yet, or not all
    std::set<int> going_on_;                  ///< of them, who have not said all
    std::map<uid_t, unsigned> waiting_;       ///< how many of them, by user
    Caller starter_;
    std::vector<Socket> buried_;
    Timer burial_;
};

} // namespace synergy
