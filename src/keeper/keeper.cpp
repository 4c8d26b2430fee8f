#include "keeper/keeper.h"

#include "base/log.h"
#include "base/survival.h"
#include "keeper/confinement.h"
#include "keeper/status.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace synergy {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// A server that closes its last listener may listen again.
constexpr Duration rest_without_socket = seconds(3);

/// Who gives rights up need not be a server.
constexpr Duration time_for_a_socket = std::chrono::minutes(10);

/// A server that is told to end may close its sockets long before it does end, and what replaces it
/// needs the port.
constexpr Duration between_looks = milliseconds(10);
constexpr Duration time_to_end = seconds(90);

/// What can wait does so for as long: the server's listen(), and the first punch.
constexpr Duration first_punch_time = milliseconds(50);

/// What is to be known by who takes a killed keeper's place: a copy of the process knows it, and a
/// fork is not to be in the way of the first calls, nor be made for each of a row of sockets. One
/// that has taken another's place may have inherited what killed that.
constexpr Duration before_first_standby = milliseconds(300);
constexpr Duration before_further_standby = seconds(10);

constexpr std::size_t sockets_with_keys_max = 256;

synergy_mark mark_of(const ServerSocket &socket) {
    return socket.accepts() ? SYNERGY_LISTENER : SYNERGY_DATAGRAMS;
}

/// Whom synergy_to() names; 0, or the errno that it promises.
int read_target(const synergy_request &request, const ServerSocket &socket, Target &target) {
    if (request.hop_limit != SYNERGY_AUTOMATIC_HOPS) {
        const auto hops = HopLimit::from(request.hop_limit);
        if (!hops)
            return EINVAL;
        target.hops = *hops;
    }
    const int family = request.peer.any.sa_family;
    if (family == AF_UNSPEC) {
        if (socket.connected.empty())
            return ENOTCONN;
        target.peer = socket.connected.unmapped();
    } else if (family != AF_INET6 && family != AF_INET) {
        return EAFNOSUPPORT;
    } else {
        target.peer = Endpoint::from(&request.peer.any, sizeof request.peer).unmapped();
        if (target.peer.empty() || target.peer.port() == 0 || target.peer.is_wildcard())
            return EINVAL;
    }
    if (socket.local.is_loopback())
        return EINVAL;
    return reachable(socket, target.peer).empty() ? EAFNOSUPPORT : 0;
}

} // namespace

Keeper::Keeper(Page &page, const Settings &settings, const std::string &learned_file,
               std::vector<std::string> written)
    : page_(page), traffic_(*page_),
      handoff_(scheduler_, *page_, socket_diag_,
               {.is_ours = [this](std::uint64_t cookie) { return registry_.has(cookie); },
                .out_of_reach = [this](std::uint64_t cookie) { registry_.end_holes(cookie); },
                .activity = [this] { return processes_.activity(); }}),
      registry_(
          scheduler_, settings, learned_file, handoff_, traffic_,
          {.locate = [this](ServerSocket &socket) { return locate(socket); },
           .has_connection =
               [this](const std::vector<std::pair<Endpoint, Endpoint>> &all) {
                   return std::any_of(all.begin(), all.end(), [this](const auto &ends) {
                       return socket_diag_.has_connection(ends.first, ends.second);
                   });
               },
           .control_chunks =
               [this](const Endpoint &from, const Endpoint &to) {
                   return socket_diag_.control_chunks(from, to).value_or(0);
               },
           .has_listener =
               [this](const ServerSocket &gone) { return socket_diag_.has_listener(gone.local); },
           .has_others =
               [this](std::uint16_t port, const std::unordered_set<std::uint64_t> &than) {
                   return socket_diag_.has_others(port, than);
               },
           .parked = [this](std::uint64_t cookie) { control_.release(cookie); },
           .listens_again = [this](std::uint64_t before,
                                   std::uint64_t now) { control_.hand_on_port(before, now); },
           .dropped =
               [this](std::uint64_t cookie) {
                   control_.release(cookie);
                   control_.release_port(cookie);
                   leave_standby();
                   // Not here: others may be about to go, or to be kept for who comes next.
                   scheduler_.at(Clock::now(), [this] { look_for_the_end(); });
               },
           .is_at_work = [this] { return processes_.activity() == Activity::runs; },
           .serve_waiting = [this] { control_.serve_waiting(); },
           .settings_changed = [this] { page_.show_ports(registry_.settings()); }}),
      control_(scheduler_, page_->secret, [this](const Call &call) { return answer(call); }),
      processes_(scheduler_,
                 [this] {
                     process_has_ended();
                     look_for_the_end();
                 }),
      looking_(scheduler_), rest_(scheduler_), learned_file_(learned_file),
      written_(std::move(written)), afterwards_(scheduler_), telling_time_(scheduler_),
      before_standby_(before_first_standby), leaving_standby_(scheduler_) {
    page_->keeper = control_.address();
    page_.show_ports(settings);
    take_signals();
}

namespace {

/// A real-time server's keeper has its policy, so that listen() waits for nobody else. What comes
/// now is nobody's to wait for.
void end_real_time() {
    const auto become_ordinary = [] {
        constexpr sched_param ordinary{};
        sched_setscheduler(0, SCHED_OTHER, &ordinary);
    };
    const int policy = sched_getscheduler(0);
    if ((policy == SCHED_FIFO || policy == SCHED_RR) && survives(become_ordinary))
        become_ordinary();
}

} // namespace

void Keeper::answer_start(Socket connection, pid_t starter, bool is_early, int server_stderr) {
    server_stderr_ = server_stderr;
    start_up_ = age_of(starter);
    processes_.add(starter);
    is_early_ = is_early;
    suits_any_user_ = is_early && geteuid() == 0;
    __atomic_store_n(&page_->suits_any_user, suits_any_user_ ? 1 : 0, __ATOMIC_RELEASE);
    // It may have died meanwhile, or have lost its patience.
    if (!Control::tell(connection, {}, page_.memory().fd()) || processes_.are_gone()) {
        end();
        return;
    }
    control_.serve_starter(std::move(connection), starter);
    answer_at_stderr(starter);
    if (is_early)
        rest_for(time_for_a_socket);
    afterwards_.set(Clock::now() + first_punch_time, [this] {
        end_real_time();
        registry_.follow_settings();
        if (geteuid() == 0)
            give_up_rights();
    });
}

/// A daemon's parent ends when it has gone to the background. Children that are something else by
/// then have a stderr of their own.
void Keeper::answer_at_stderr(pid_t starter) {
    starter_ = starter;
    log::watch_stderr([this] {
        const pid_t silent = __atomic_load_n(&page_->silent, __ATOMIC_ACQUIRE);
        return processes_.has(silent) && (silent == starter_ || !processes_.has(starter_));
    });
}

/// Whenever what is kept has changed.
void Keeper::leave_standby() {
    if (std::exchange(is_standby_due_, true))
        return;
    leaving_standby_.set(Clock::now() + before_standby_, [this] {
        is_standby_due_ = false;
        if (!registry_.is_empty() && standby_.leave({SYNERGY_STDERR_FD, page_.memory().fd()}))
            go_on_in_its_place();
    });
}

/// In the copy. This keeper's descriptors are gone with the process that had them, and nothing of
/// it is to run any more.
void Keeper::go_on_in_its_place() {
    try {
        // (Where the server's own socket is needed, that has to be handed over again.)
        const bool needs_server = registry_.holds_duplicates();
        auto *next = needs_server
                         ? nullptr
                         : new Keeper(page_, registry_.settings(), learned_file_, written_);
        if (needs_server)
            log::warn(
                "the keeper has been killed: nothing is punched until the server's next call");
        else if (page_.take_over()) {
            next->take_over(*this);
            log::warn("the keeper has been killed: another one has taken its place");
            next->run();
            delete next;
        }
    } catch (const std::exception &error) {
        log::error("the keeper has been killed, and nobody takes its place: {}", error.what());
    }
    _exit(0);
}

void Keeper::take_over(const Keeper &killed) {
    registry_.take_over(killed.registry_, [this](const ServerSocket &socket) {
        return control_.claim(socket.cookie) == 0;
    });
    keys_ = killed.keys_;
    said_ = killed.said_;
    for (const pid_t process : killed.processes_.all())
        processes_.add(process);
    // The others that there are speak up when they call.
    processes_.may_be_more();
    before_standby_ = before_further_standby;
    server_stderr_ = killed.server_stderr_;
    start_up_ = killed.start_up_;
    answer_at_stderr(killed.starter_);
    tell_time();
    leave_standby();
    registry_.look_for_closed();
    if (registry_.is_empty())
        look_for_the_end();
    afterwards_.set(Clock::now() + first_punch_time, [this] { registry_.follow_settings(); });
}

/// Who made the first socket is not known when a server gives its rights up before, and that user
/// alone can bind beside it (socket(7), SO_REUSEPORT).
bool Keeper::become_ready_for(uid_t owner) {
    if (!std::exchange(suits_any_user_, false))
        return false;
    __atomic_store_n(&page_->suits_any_user, 0, __ATOMIC_RELEASE);
    const bool is_another = owner != geteuid();
    if (!become_user(owner) || !is_another)
        return false;
    __atomic_store_n(&page_->user, owner, __ATOMIC_RELEASE);
    return true;
}

void Keeper::give_up_rights() const {
    const auto can_punch = [this] { return registry_.can_give_options(); };
    for (const std::string &missing :
         confine(written_, registry_.holds_duplicates(), can_punch, suits_any_user_))
        log::info("the keeper goes on with more rights than it needs: {}", missing);
}

void Keeper::run() {
    while (!is_over_)
        work(std::chrono::hours(1));
}

void Keeper::work(Duration longest) {
    try {
        scheduler_.run_once(longest);
    } catch (const std::exception &error) {
        log::error("{}", error.what());
    }
}

/// Whoever ends the server by its control group or its terminal ends us as well; what counts is
/// when the server goes.
void Keeper::take_signals() {
    sigset_t signals;
    sigemptyset(&signals);
    for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT})
        sigaddset(&signals, signal);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    signals_ = Socket(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals_)
        throw std::system_error(errno, std::generic_category(), "signalfd");
    scheduler_.watch(signals_.fd(), EPOLLIN, [this](std::uint32_t) {
        signalfd_siginfo signal;
        while (::read(signals_.fd(), &signal, sizeof signal) == sizeof signal) {
            told_to_end_until_ = Clock::now() + time_to_end;
            look_often();
        }
        // Nobody starts the server again, and who ends it may wait for all that it has started.
        if (processes_.are_gone())
            end();
    });
}

void Keeper::look_often() {
    looking_.set(Clock::now() + between_looks, [this] {
        if (Clock::now() < told_to_end_until_)
            look_often();
        registry_.give_way();
    });
}

Keeper::Reply Keeper::answer(const Call &call) {
    Reply reply;
    try {
        if (call.knows_secret)
            processes_.add(call.process);
        switch (call.request.kind) {
        case SYNERGY_OPEN:
        case SYNERGY_PREPARE:
            open(call, reply);
            break;
        case SYNERGY_OPEN_TOWARD:
            open_toward(call, reply);
            break;
        case SYNERGY_CLOSED:
            processes_.closed(call.process, call.request.cookie);
            give_back(call);
            registry_.closed(call.request.cookie);
            break;
        case SYNERGY_GIVE_WAY:
            reply.answer.result = registry_.give_way() ? 0 : ENOENT;
            break;
        case SYNERGY_FETCH:
            fetch(call, reply);
            break;
        case SYNERGY_HERE:
            processes_.add(call.request.process, call.process);
            break;
        case SYNERGY_BIND:
            bind(call, reply);
            break;
        case SYNERGY_BESIDE:
            reply.answer.result = is_kept_for(call) ? 0 : ENOENT;
            break;
        case SYNERGY_ADOPT:
            adopt(call, reply);
            break;
        case SYNERGY_MEET:
            meet(call, reply);
            break;
        case SYNERGY_EXECUTED_WITHOUT:
            executed_without_library(call);
            break;
        case SYNERGY_KEY:
            keep_key(call, reply);
            break;
        case SYNERGY_STATUS:
            if (call.is_trusted)
                status(reply);
            else
                reply.answer.result = EPERM;
            break;
        default:
            reply.answer.result = EINVAL;
        }
    } catch (const std::exception &error) {
        log::error("{}", error.what());
        reply.answer.result = EIO;
    }
    passed_ = 0;
    return reply;
}

/// What a call shows, as it is to be kept: nullopt and an errno if it is nothing for us.
std::optional<ServerSocket> Keeper::describe_passed(const Call &call) {
    const std::uint64_t cookie = cookie_of(call.passed.fd());
    passed_ = cookie;
    const auto keys = keys_.find(cookie);
    const ServerSocket *known = registry_.find(cookie);
    auto socket =
        describe(call.passed.fd(), keys == keys_.end() ? std::vector<OptionValue>{} : keys->second,
                 known != nullptr && !known->is_ready() ? known : nullptr);
    if (!socket)
        return std::nullopt;
    // (An SCTP listener shows the address at which somebody has come last.)
    if (known != nullptr && socket->transport == Transport::sctp)
        socket->local = known->local;
    socket->fd = call.request.fd;
    socket->is_prepared = call.request.kind == SYNERGY_PREPARE;
    socket->lets_others_in =
        socket->is_prepared && (call.request.flags & SYNERGY_LETS_OTHERS_IN) != 0;
    socket->is_shared = (call.request.flags & SYNERGY_SHARES) != 0;
    // Sockets beside it would be made in this network.
    if (network_of(call.passed.fd()) != page_->network) {
        errno = EXDEV;
        return std::nullopt;
    }
    return socket;
}

void Keeper::open(const Call &call, Reply &reply) {
    auto socket = describe_passed(call);
    if (socket && become_ready_for(socket->owner))
        socket = describe_passed(call); // to another user it may be another thing
    if (!socket) {
        reply.answer.result = errno;
        reply.answer.mark = SYNERGY_UNTOUCHED;
        if (const auto any = errno == EXDEV ? describe(call.passed.fd()) : std::nullopt;
            any && has_declared(registry_.settings(), *any))
            log::error("{} {}: nothing is punched: it belongs to another network namespace than "
                       "the process that has it",
                       name(any->transport), any->local.text());
        return;
    }
    const bool is_to_listen =
        call.request.kind == SYNERGY_PREPARE && socket->accepts() && !socket->listens;
    if (socket->transport != Transport::udp && !socket->listens && !is_to_listen) {
        reply.answer.result = EINVAL;
        reply.answer.mark = SYNERGY_UNKNOWN;
        return;
    }
    reply.answer.result = open_described(*socket, call, std::nullopt);
    reply.answer.mark = registry_.has(socket->cookie) ? mark_of(*socket) : SYNERGY_UNTOUCHED;
}

/// A client's socket (a resolver's, say) is connected to somebody who is no peer.
bool Keeper::is_for_others(const ServerSocket &socket) const {
    if (socket.transport != Transport::udp || socket.connected.empty())
        return false;
    const auto targets = registry_.settings().targets_for(socket.transport, socket.local.port());
    return std::none_of(targets.begin(), targets.end(), [&](const Target &target) {
        return target.peer == socket.connected.unmapped();
    });
}

int Keeper::open_described(const ServerSocket &socket, const Call &call,
                           const std::optional<Target> &target) {
    if (!target && is_for_others(socket))
        return ENOENT;
    const bool is_punched = target || has_declared(registry_.settings(), socket);
    if (is_punched && socket.not_to_be_given != nullptr) {
        // One that does not listen yet may be given something else before it does.
        if (!socket.is_ready())
            registry_.forget(socket.cookie);
        else if (registry_.has(socket.cookie))
            handoff_.check_imitable(socket);
        else
            log::error("{} {}: nothing is punched: {}", name(socket.transport), socket.local.text(),
                       not_to_be_given(socket.not_to_be_given));
        return ENOENT;
    }
    if (is_punched && socket.accepts())
        if (const char *obstacle = handoff_.obstacle(socket)) {
            if (socket.is_ready())
                log::once(LogLevel::error, std::string(name(socket.transport)) + " " +
                                               socket.local.text() +
                                               ": nothing is punched: " + obstacle);
            registry_.forget(socket.cookie);
            return ENOENT;
        }
    // Another user's is refused, and said, once it listens; till then its name must not be taken:
    // it is free again only some time after.
    if (socket.accepts() && !socket.is_ready() && socket.owner != geteuid())
        return ENOENT;
    // Known once, it shares its port with us, and no more tells by itself that there was room.
    const ServerSocket *known = registry_.find(socket.cookie);
    Socket duplicate;
    if (socket.has_room_beside || (known != nullptr && known->has_room_beside)) {
        constexpr int on = 1;
        ::setsockopt(call.passed.fd(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    } else if (socket.punches_itself()) {
        duplicate = Socket(fcntl(call.passed.fd(), F_DUPFD_CLOEXEC, 0));
        if (!duplicate)
            return errno;
    }
    const bool is_new = !registry_.has(socket.cookie);
    // (A name that was claimed and released is another's to be found by for a moment longer.)
    if (is_new && (target || registry_.may_have_peers(socket)))
        if (const int error = control_.claim(socket.cookie); error != 0)
            return error;
    const int result = target ? registry_.open(socket, *target, std::move(duplicate))
                              : registry_.open_all(socket, std::move(duplicate));
    if (const ServerSocket *kept = registry_.find(socket.cookie);
        is_new && kept != nullptr && (!kept->is_shared || kept->transport == Transport::tcp))
        control_.claim_port(socket.cookie, static_cast<int>(socket.transport), socket.local.port());
    if (registry_.has(socket.cookie)) {
        rest_.cancel();
        tell_time();
        leave_standby();
    } else {
        control_.release(socket.cookie);
    }
    return result;
}

/// For as long as there are datagrams to be noted.
void Keeper::tell_time() {
    if (!registry_.has_datagrams())
        return;
    const Time now = Clock::now();
    page_.show_time(now);
    telling_time_.set(now + seconds(1), [this] { tell_time(); });
}

void Keeper::open_toward(const Call &call, Reply &reply) {
    auto socket = describe_passed(call);
    reply.answer.mark = SYNERGY_UNKNOWN;
    if (!socket) {
        reply.answer.result = errno;
        return;
    }
    Target target;
    reply.answer.result = read_target(call.request, *socket, target);
    if (reply.answer.result != 0)
        return;
    if (socket->transport != Transport::udp && !socket->listens) {
        if (socket->accepts() && !socket->connected.empty()) {
            reply.answer.result = socket->connected.unmapped() == target.peer ? 0 : EISCONN;
            return;
        }
        __atomic_store_n(&page_->asks_for_all, 1, __ATOMIC_RELEASE);
        reply.answer.result = registry_.expect(socket->cookie, target);
        return;
    }
    if (socket->local.port() == 0) {
        // As the first datagram would.
        const Endpoint any = Endpoint::wildcard(socket->local.family(), 0);
        if (::bind(call.passed.fd(), any.data(), any.length()) != 0 ||
            !(socket = describe_passed(call))) {
            reply.answer.result = errno;
            return;
        }
    }
    reply.answer.result = open_described(*socket, call, target);
    // Also after a failure: the punch may be tried again for as long as the socket is open.
    if (registry_.has(socket->cookie))
        reply.answer.mark = mark_of(*socket);
}

/// The options by which its port was shared with us are the server's own again. (As long as it
/// listens it must be shared.)
void Keeper::give_back(const Call &call) {
    const ServerSocket *known = call.passed ? registry_.find(cookie_of(call.passed.fd())) : nullptr;
    if (known == nullptr || !known->is_prepared)
        return;
    call.passed.set(SOL_SOCKET, SO_REUSEADDR, known->lets_others_in ? 1 : 0);
    call.passed.set(SOL_SOCKET, SO_REUSEPORT, known->is_shared ? 1 : 0);
    registry_.shut_down(known->cookie);
}

void Keeper::fetch(const Call &call, Reply &reply) {
    auto fetched = call.passed ? handoff_.fetch(call.passed, !(call.request.flags & SOCK_NONBLOCK))
                               : std::nullopt;
    if (!fetched) {
        reply.answer.result = ENOENT;
        reply.show = call.passed.fd();
        return;
    }
    if (!fetched->connection) {
        reply.answer.result = ECONNABORTED;
        return;
    }
    registry_.handed_over(fetched->listener, fetched->peer);
    reply.is_proof = true;
    reply.answer.peer = wire_endpoint(fetched->peer);
    reply.hand_over = std::move(fetched->connection);
}

void Keeper::bind(const Call &call, Reply &reply) {
    constexpr std::array transports{Transport::tcp, Transport::udp, Transport::sctp};
    constexpr int bind_to_interface = 62; // SO_BINDTOIFINDEX, asm-generic/socket.h, Linux 5.0
    const auto transport = static_cast<std::size_t>(call.request.flags);
    const Endpoint address = Endpoint::from(&call.request.peer.any, sizeof call.request.peer);
    const int fd = call.passed.fd();
    const bool takes_v4 =
        address.family() == AF_INET6 && get_option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 0;
    if (transport < transports.size() && !address.empty() &&
        get_option(fd, SOL_SOCKET, bind_to_interface) == 0 &&
        registry_.is_taken(transports[transport], address, takes_v4))
        reply.answer.result = EADDRINUSE;
}

bool Keeper::is_kept_for(const Call &call) const {
    const Endpoint address = Endpoint::from(&call.request.peer.any, sizeof call.request.peer);
    struct stat status {};
    const int fd = call.passed.fd();
    return !address.empty() && fstat(fd, &status) == 0 &&
           registry_.parked().is_kept_for(address,
                                          address.family() == AF_INET6 &&
                                              get_option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 0,
                                          status.st_uid);
}

/// Where a key is forgotten, nothing is punched for its socket: the kernel tells that it has one.
void Keeper::keep_key(const Call &call, Reply &reply) {
    const std::uint64_t cookie = call.passed ? cookie_of(call.passed.fd()) : 0;
    const auto key = key_value(call.request.key_option, call.request.key, call.request.key_length);
    if (cookie == 0 || !key) {
        reply.answer.result = EINVAL;
        return;
    }
    // A client's sockets have keys as well, one after the other.
    while (keys_.size() >= sockets_with_keys_max && !keys_.contains(cookie)) {
        auto oldest = keys_.begin();
        while (oldest != keys_.end() && registry_.has(oldest->first))
            ++oldest;
        if (oldest == keys_.end()) {
            reply.answer.result = ENOSPC;
            return;
        }
        keys_.erase(oldest);
    }
    if (!add_key(keys_[cookie], *key))
        reply.answer.result = ENOSPC;
    leave_standby();
}

void Keeper::meet(const Call &call, Reply &reply) {
    const ServerSocket *socket =
        call.passed ? registry_.find(cookie_of(call.passed.fd())) : nullptr;
    if (socket == nullptr) {
        reply.answer.result = ENOENT;
        return;
    }
    processes_.add(call.process);
    reply.is_proof = true;
    reply.answer.mark = mark_of(*socket);
    reply.show = page_.memory().fd();
}

/// Most programs that a server executes have no use for its sockets, so it is said once of each.
void Keeper::executed_without_library(const Call &call) {
    const std::uint64_t cookie = call.request.cookie;
    const ServerSocket *socket = registry_.find(cookie);
    const bool is_listener = socket != nullptr && socket->accepts();
    if ((cookie != 0 && !is_listener) || !said_.insert(cookie).second)
        return;
    if (cookie == 0)
        log::warn("process {} executes a program with its real and effective user apart: the "
                  "loader gives that no library but those in /etc/ld.so.preload, and there the "
                  "library heeds nothing but {}/synergy/synergy.toml",
                  call.process, SYNERGY_SYSCONFDIR);
    else
        log::warn("{} {}: process {} executes a program that gets this socket, and has no "
                  "LD_PRELOAD in its environment: what that accepts is no peer's connection "
                  "(`env LD_PRELOAD=...` before the program's name gives it the library)",
                  name(socket->transport), socket->local.text(), call.process);
}

void Keeper::status(Reply &reply) {
    reply.hand_over =
        in_memory(status_document(registry_.status(), processes_.all(), socket_diag_, traffic_));
    if (!reply.hand_over)
        reply.answer.result = errno;
}

/// The kernel says so of sockets that we don't hold, and of others the processes.
bool Keeper::locate(ServerSocket &socket) const {
    if (socket.cookie == passed_)
        return true;
    if (!socket.punches_itself() && socket.is_ready()) {
        const auto life = socket_diag_.life(socket.transport, socket.local, socket.cookie);
        if (life != SocketDiag::Life::unknown)
            return life == SocketDiag::Life::lives;
    }
    return processes_.locate(socket);
}

/// Whoever listened there may be followed by another process, as in a shell's loop.
void Keeper::process_has_ended() {
    if (!processes_.are_gone() || Clock::now() < told_to_end_until_) {
        registry_.look_for_closed();
        return;
    }
    const pid_t leaving = __atomic_load_n(&page_->leaving, __ATOMIC_ACQUIRE);
    registry_.wait_for_successor(
        start_up_, leaving != 0 && leaving == processes_.last_ended(),
        [this](std::uint64_t cookie) { return control_.has_port_of(cookie); });
}

void Keeper::adopt(const Call &call, Reply &reply) {
    processes_.look();
    if (processes_.are_gone())
        process_has_ended();
    else
        reply.answer.result = EBUSY;
    if (reply.answer.result != 0)
        return;
    if (!is_over_ && registry_.parked().has_at(call.passed.local().port()) &&
        call.request.cookie == synergy_circumstances(environ, server_stderr_))
        processes_.add(call.process);
    if (processes_.are_gone()) {
        registry_.parked().forget_all();
        end();
        reply.answer.result = ENOENT;
        return;
    }
    __atomic_store_n(&page_->leaving, 0, __ATOMIC_RELEASE);
    registry_.parked().successor_has_come();
    rest_.cancel();
    is_early_ = false;
    starter_ = call.process;
    start_up_ = age_of(starter_);
    log::serve(starter_);
    reply.show = page_.memory().fd();
}

/// The keeper has nothing more to do when the server has no process any more; or no socket, in a
/// while, if it had one.
void Keeper::look_for_the_end() {
    if (processes_.are_gone()) {
        // A child may have spoken in the meantime.
        control_.serve_waiting();
        if (processes_.are_gone() &&
            (registry_.parked().all().empty() || Clock::now() < told_to_end_until_))
            end();
        return;
    }
    // Where there was no socket at the start, no other keeper may be to be had.
    if (registry_.is_empty() && !is_early_)
        rest_for(rest_without_socket);
}

void Keeper::rest_for(Duration time) {
    rest_.set(Clock::now() + time, [this] {
        // From here on it is asked in vain, and another is started; who has asked is served.
        synergy_set_over(&*page_);
        control_.serve_waiting();
        if (registry_.is_empty())
            end();
        else
            synergy_unset_over(&*page_);
    });
}

void Keeper::end() {
    synergy_set_over(&*page_);
    is_over_ = true;
}

} // namespace synergy
