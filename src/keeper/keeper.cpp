#include "keeper/keeper.h"

#include "base/log.h"
#include "base/log_thread.h"
#include "base/survival.h"
#include "hops/learned_hops.h"
#include "keeper/confinement.h"

#include <algorithm>
#include <csignal>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
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
/// The call that executes a program, on a busy machine.
constexpr Duration time_to_execute = milliseconds(200);

/// What can wait does so for as long: the server's listen(), and the first punch.
constexpr Duration first_punch_time = milliseconds(200);

/// What rights the options of listeners take is known once they have come, one after the other: so
/// long after the last of them, and so long after the start, rights are given up. Before a server
/// that gives up its own has a socket, none is waited for.
constexpr Duration after_a_socket = milliseconds(500);
constexpr Duration time_for_first_sockets = seconds(5);

/// What is to be known by who takes a killed keeper's place: a copy of the process knows it, and a
/// fork is not to be in the way of the first calls, nor be made for each of a row of sockets. One
/// that has taken another's place may have inherited what killed that.
constexpr Duration before_first_standby = milliseconds(300);
constexpr Duration before_further_standby = seconds(10);

} // namespace

Keeper::Keeper(Page &page, const Settings &settings, const std::string &learned_file,
               std::vector<std::string> written)
    : page_(page), traffic_(*page_), sharers_(scheduler_, [this] { look_for_the_end(); }),
      handoff_(scheduler_, *page_, socket_diag_,
               {.is_ours = [this](std::uint64_t cookie) { return registry_.has(cookie); },
                .out_of_reach = [this](std::uint64_t cookie) { registry_.end_holes(cookie); },
                .in_reach = [this](std::uint64_t cookie) { registry_.open_holes(cookie); },
                .activity = [this] { return processes_.activity(); },
                .ends = [this] { return processes_.ends(); },
                .has_one_ended_since =
                    [this](unsigned ends) { return processes_.has_one_ended_since(ends); },
                .has_unseen_filter =
                    [this](const ServerSocket &listener) {
                        return processes_.has_unseen_filter(listener);
                    }}),
      registry_(scheduler_, settings, learned_file, handoff_, traffic_, socket_diag_, *this),
      control_(scheduler_, page_->secret,
               [this](const Call &call) { return requests_.answer(call); }),
      processes_(scheduler_, *page_,
                 [this] {
                     process_has_ended();
                     look_for_the_end();
                 }),
      requests_(page_, socket_diag_, traffic_, handoff_, registry_, control_, processes_,
                {.opened =
                     [this] {
                         rest_.cancel();
                         give_up_rights_after(after_a_socket);
                         tell_time();
                         leave_standby();
                     },
                 .learned = [this] { leave_standby(); },
                 .ends_soon =
                     [this] {
                         looks_often_until_ = Clock::now() + time_to_execute;
                         look_often();
                     },
                 .become_ready_for = [this](uid_t owner,
                                            gid_t group) { return become_ready_for(owner, group); },
                 .adopt = [this](const Call &call, Reply &reply) { adopt(call, reply); }}),
      looking_(scheduler_), rest_(scheduler_), learned_file_(learned_file),
      written_(std::move(written)), afterwards_(scheduler_), giving_up_rights_(scheduler_),
      telling_time_(scheduler_), before_standby_(before_first_standby),
      leaving_standby_(scheduler_) {
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
    });
    if (geteuid() == 0) {
        keeps_rights_until_ = Clock::now() + time_for_first_sockets;
        give_up_rights_after(is_early ? first_punch_time : time_for_first_sockets);
    }
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
        make_standby();
    });
}

void Keeper::make_standby() {
    if (!registry_.is_empty() &&
        standby_.leave({SYNERGY_STDERR_FD, page_.memory().fd()}, [this] { page_.stand_by(); }))
        go_on_in_its_place();
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
    log_thread::finish(log_thread::time_for_last_lines);
    _exit(0);
}

void Keeper::take_over(const Keeper &killed) {
    registry_.take_over(killed.registry_, [this](const ServerSocket &socket) {
        return control_.claim(socket.cookie) == 0;
    });
    requests_.take_over(killed.requests_);
    processes_.take_over(killed.processes_);
    // The others that there are speak up when they call.
    processes_.may_be_more();
    before_standby_ = before_further_standby;
    server_stderr_ = killed.server_stderr_;
    start_up_ = killed.start_up_;
    answer_at_stderr(killed.starter_);
    keeps_rights_until_ = killed.keeps_rights_until_;
    give_up_rights_after(after_a_socket);
    tell_time();
    leave_standby();
    registry_.look_for_closed();
    if (registry_.is_empty())
        look_for_the_end();
    afterwards_.set(Clock::now() + first_punch_time, [this] { registry_.follow_settings(); });
}

/// Who made the first socket is not known when a server gives its rights up before, and that user
/// alone can bind beside it (socket(7), SO_REUSEPORT).
bool Keeper::become_ready_for(uid_t owner, gid_t group) {
    if (!std::exchange(suits_any_user_, false))
        return false;
    __atomic_store_n(&page_->suits_any_user, 0, __ATOMIC_RELEASE);
    const bool is_another = owner != geteuid();
    if (!become_user(owner, group) || !is_another)
        return false;
    log_thread::replace();
    __atomic_store_n(&page_->user, owner, __ATOMIC_RELEASE);
    return true;
}

void Keeper::give_up_rights_after(Duration time) {
    if (keeps_rights_until_)
        giving_up_rights_.set(std::min(Clock::now() + time, *keeps_rights_until_),
                              [this] { give_up_rights(); });
}

void Keeper::give_up_rights() {
    keeps_rights_until_.reset();
    if (!learned_file_.empty()) // it is confined to what is there
        static_cast<void>(make_place_for(learned_file_));
    const auto can_punch = [this] { return registry_.can_give_options(); };
    const std::vector<std::string> kept =
        confine(written_, registry_.holds_duplicates(), can_punch, suits_any_user_);
    // Rights are each thread's own.
    log_thread::replace();
    for (const std::string &missing : kept)
        log::info("the keeper goes on with more rights than it needs: {}", missing);
    // A copy that was made before has them still.
    if (standby_.dismiss())
        make_standby();
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
        if (Clock::now() < std::max(told_to_end_until_, looks_often_until_))
            look_often();
        registry_.give_way(0);
    });
}

/// For as long as there are datagrams to be noted.
void Keeper::tell_time() {
    if (!registry_.has_datagrams())
        return;
    const Time now = Clock::now();
    page_.show_time(now);
    telling_time_.set(now + seconds(1), [this] { tell_time(); });
}

bool Keeper::is_at_work() {
    return processes_.activity() == Activity::runs;
}

void Keeper::parked(std::uint64_t cookie) {
    control_.release(cookie);
}

void Keeper::listens_again(std::uint64_t before, std::uint64_t now) {
    control_.hand_on_port(before, now);
}

void Keeper::dropped(std::uint64_t cookie) {
    control_.release(cookie);
    control_.release_port(cookie);
    leave_standby();
    // Not here: others may be about to go, or to be kept for who comes next.
    scheduler_.at(Clock::now(), [this] { look_for_the_end(); });
}

void Keeper::give(Gift gift, std::uint64_t to, const std::function<void(Gift)> &refused) {
    sharers_.give(std::move(gift), to, refused);
}

void Keeper::serve_waiting() {
    control_.serve_waiting();
}

void Keeper::settings_changed() {
    page_.show_ports(registry_.settings());
}

/// The kernel says so of sockets that we don't hold, and of others the processes.
bool Keeper::locate(ServerSocket &socket) const {
    if (socket.cookie == requests_.passed())
        return true;
    auto life = SocketDiag::Life::unknown;
    if (!socket.is_ready() && socket.transport == Transport::tcp)
        life = socket_diag_.life_until_it_listens(socket.local, socket.sought());
    else if (!socket.punches_itself() && socket.is_ready())
        life = socket_diag_.life(socket.transport, socket.local, socket.sought());
    if (life != SocketDiag::Life::unknown)
        return life == SocketDiag::Life::lives;
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
    if (sharers_.is_giving())
        return; // and will be called
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
