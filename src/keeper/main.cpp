// synergy-keeper: what the shim starts for a server that has peers (wire.h says with what).
#include "base/abstract_socket.h"
#include "base/last_descriptors.h"
#include "base/log.h"
#include "base/log_thread.h"
#include "base/rights.h"
#include "base/survival.h"
#include "hops/learned_hops.h"
#include "keeper/keeper.h"
#include "settings/load_settings.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace {

using namespace synergy;

/// What a server may have set for purposes of its own, and this process has no use for.
void reset_resources() {
    // A real-time server waits for its keeper's first answers: no ordinary process is to come
    // between (see Keeper::answer_start()).
    constexpr sched_param ordinary{};
    if (const int policy = sched_getscheduler(0); policy != SCHED_FIFO && policy != SCHED_RR)
        sched_setscheduler(0, SCHED_OTHER, &ordinary);
    if (getpriority(PRIO_PROCESS, 0) > 0)
        setpriority(PRIO_PROCESS, 0, 0);
    // Nor is a timer to be late because the server does not mind (TimerSlackNSec= of a systemd
    // unit): what ordinary processes have.
    constexpr unsigned long slack_ns = 50000;
    prctl(PR_SET_TIMERSLACK, slack_ns, 0, 0, 0);
    cpu_set_t all;
    std::memset(&all, 0xff, sizeof all);
    sched_setaffinity(0, sizeof all, &all);
    // A limit on the size of files is the server's for its files, one on its processor time is
    // nothing that an idle process could keep to.
    for (auto limit : {RLIMIT_NOFILE, RLIMIT_FSIZE, RLIMIT_CPU, RLIMIT_STACK}) {
        rlimit value{};
        if (getrlimit(limit, &value) != 0)
            continue;
        value.rlim_cur =
            limit == RLIMIT_STACK ? std::min<rlim_t>(value.rlim_max, 8UL << 20) : value.rlim_max;
        setrlimit(limit, &value);
    }
    // A server may have left itself next to none. As root more can be had.
    constexpr rlimit enough{.rlim_cur = 4096, .rlim_max = 4096};
    rlimit descriptors{};
    if (getrlimit(RLIMIT_NOFILE, &descriptors) == 0 && descriptors.rlim_max < enough.rlim_max)
        setrlimit(RLIMIT_NOFILE, &enough);
}

/// What exec keeps of a server that may have changed it for purposes of its own. What can't be had
/// stays as it is.
void reset_inherited() {
    // Ignored ones would not be told of. (Handlers are gone with the program that had them.)
    for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGCHLD})
        ::signal(signal, SIG_DFL);
    // What is meant for the server comes here too, where it is sent to all processes of its unit
    // (systemctl kill).
    for (int signal :
         {SIGPIPE, SIGXFSZ, SIGXCPU, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGPWR})
        ::signal(signal, SIG_IGN);
    for (int signal = SIGRTMIN; signal <= SIGRTMAX; signal++)
        ::signal(signal, SIG_IGN);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    setsid();
    umask(022);
    if (survives(reset_resources))
        reset_resources();
}

/// Nothing of the server's but what it was given, and numbers 0 to 2 taken, lest a stray line end
/// up in a socket.
void sort_descriptors() {
    close_range(SYNERGY_STDERR_FD + 1, ~0U, 0);
    for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
        if (fcntl(fd, F_GETFD) < 0) {
            const int null = ::open("/dev/null", O_RDWR);
            if (null >= 0 && null != fd) {
                dup2(null, fd);
                close(null);
            }
        }
    fcntl(SYNERGY_START_FD, F_SETFD, FD_CLOEXEC);
    fcntl(SYNERGY_STDERR_FD, F_SETFD, FD_CLOEXEC);
}

const char *variable(const char *name) {
    return secure_getenv(name);
}

bool is_stderr_a_file() {
    struct stat status {};
    return fstat(STDERR_FILENO, &status) == 0 && S_ISREG(status.st_mode);
}

void configure_log(const Settings &settings, pid_t server) {
    log::configure({.level = settings.log,
                    .where = settings.log_file,
                    .stderr_path = is_stderr_a_file() ? -1 : SYNERGY_STDERR_FD,
                    .server = server,
                    .is_by_thread = true});
    for (const Problem &problem : settings.problems)
        log::error("{}", problem.line());
}

/// As many as can be had, since reset_resources().
rlim_t descriptors_to_be_had() {
    rlimit limit{};
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : fewest_descriptors;
}

/// Where files are made and replaced: logs are rotated, and what was learned is written anew.
std::vector<std::string> written_places(const std::string &learned_file) {
    std::vector<std::string> places = log::places();
    if (!learned_file.empty())
        places.push_back(learned_file.substr(0, learned_file.find_last_of('/')));
    return places;
}

int keep(std::string_view cause) {
    Socket start(SYNERGY_START_FD);
    const auto starter = peer_credentials(start);
    if (!starter) {
        std::fputs("synergy-keeper: is started by libsynergy.so, not by hand\n", stderr);
        return 2;
    }
    const int server_stderr = is_stderr_a_file()                       ? STDERR_FILENO
                              : fcntl(SYNERGY_STDERR_FD, F_GETFD) >= 0 ? SYNERGY_STDERR_FD
                                                                       : -1;
    const auto refuse = [&](int error) {
        synergy_answer answer{};
        answer.result = error;
        Control::tell(start, answer, -1);
        return 0;
    };
    try {
        const Settings settings = load_settings(variable, environ);
        try_to_leave_rights();
        configure_log(settings, starter->pid);
        if (!settings.has_peers() && !settings.hidden_file.empty() && settings.problems.empty())
            log::warn("no peers are set: whether {} has any can't be told, since user {} may not "
                      "look into that directory",
                      settings.hidden_file, geteuid());
        // Of a file without a single setting nobody expects anything.
        const bool may_gain =
            settings.follows_file && (!settings.is_file_blank || settings.has_peer_directory);
        if (cause != SYNERGY_KEEPER_ASKED && !settings.has_peers() && !may_gain) {
            if (settings.problems.empty())
                log::info("no peers are set, in SYNERGY_PEERS or in a config file: nothing is "
                          "punched");
            return refuse(ENOENT);
        }
        if (const rlim_t most = descriptors_to_be_had(); most < fewest_descriptors) {
            log::error("nothing is punched: the limit of open files is {}, and {} are the fewest "
                       "that will do (RLIMIT_NOFILE; LimitNOFILE= in a systemd unit)",
                       most, fewest_descriptors);
            return refuse(EPERM); // it can't be raised again
        }
        const int directory = chdir("/");
        static_cast<void>(directory);
        const std::string learned_file = learned_hops_file(variable);
        Page page;
        Keeper keeper(page, settings, learned_file, written_places(learned_file));
        keeper.answer_start(std::move(start), starter->pid, cause == SYNERGY_KEEPER_EARLY,
                            server_stderr);
        keeper.run();
        return 0;
    } catch (const std::system_error &error) {
        const bool is_family = error.code().value() == EAFNOSUPPORT;
        log::error("nothing is punched: {}",
                   is_family ? "Unix sockets are forbidden here (AF_UNIX is missing from "
                               "RestrictAddressFamilies= of a systemd unit?)"
                             : error.what());
        return refuse(error.code().value());
    } catch (const std::exception &error) {
        log::error("nothing is punched: {}", error.what());
        return refuse(ENOMEM);
    }
}

} // namespace

int main(int argc, char **argv) {
    reset_inherited();
    sort_descriptors();
    const int status = keep(argc > 1 ? argv[1] : "");
    log_thread::finish(log_thread::time_for_last_lines);
    return status;
}
