#include "keeper/engine_thread.h"

#include "base/log.h"
#include "base/thread.h"
#include "keeper/registry.h"

#include <atomic>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <system_error>
#include <unistd.h>

namespace synergy {

namespace {

enum class State : std::uint32_t { none, starting, running };

/// Which process the thread belongs to, with its state: after a fork the child reads its parent's
/// and knows by the process number that it has none.
struct Owner {
    pid_t process = 0;
    State state = State::none;
};
static_assert(std::atomic<Owner>::is_always_lock_free);

// Whoever needs the thread may change it from none to starting; the thread's starter goes on.
std::atomic<Owner> owner{};

// Where the thread listens, and the settings it was started with. Written by the starter and the
// new thread before `owner` says running, read after.
EngineAddress engine_address;
const Settings *engine_settings = nullptr;

/// A descriptor table of the thread's own: its sockets are in nobody's way, and no fork or exec
/// inherits them. Numbers 0 to 2 are taken, lest a stray line for stderr end up in a socket. A
/// stderr that is a plain file stays: opened a second time it would have a position of its own, and
/// the server and we would write over each other's lines.
bool unshare_descriptors() {
    // close_range(2): Linux 5.9. Where a sandbox refuses it, unshare(2) and closing do the same.
    constexpr unsigned first = STDERR_FILENO + 1;
    if (syscall(SYS_close_range, first, ~0U, CLOSE_RANGE_UNSHARE) != 0) {
        if (unshare(CLONE_FILES) != 0)
            return false;
        for (int fd = first; fd < static_cast<int>(sysconf(_SC_OPEN_MAX)); fd++)
            libc().close(fd);
    }
    struct stat status {};
    bool keeps_stderr = fstat(STDERR_FILENO, &status) == 0 && S_ISREG(status.st_mode);
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        if (fd != STDERR_FILENO || !keeps_stderr)
            libc().close(fd);
    for (int fd = 0; fd <= STDERR_FILENO - int{keeps_stderr}; fd++)
        if (::open("/dev/null", O_RDWR | O_CLOEXEC) < 0)
            libc().socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    log::this_thread_has_its_own_table(keeps_stderr);
    return true;
}

class EngineThread {
  public:
    explicit EngineThread(const Settings &settings)
        : control_(scheduler_, Family::get().secret(),
                   [this](const Request &request, Socket passed, Socket &hand_over) {
                       return answer(request, std::move(passed), hand_over);
                   }),
          handoff_(scheduler_, Family::get(), join()),
          registry_(scheduler_, settings, handoff_, control_.address()) {}

    [[nodiscard]] EngineAddress address() const { return control_.address(); }

    [[noreturn]] void run() {
        for (;;) {
            try {
                scheduler_.run_once(std::chrono::hours(1));
            } catch (const std::exception &error) {
                log::error("{}", error.what());
            }
        }
    }

  private:
    std::uint8_t join() {
        auto slot = Family::get().join(control_.address());
        if (!slot)
            throw std::system_error(EAGAIN, std::generic_category(), "too many processes");
        return *slot;
    }

    Answer answer(const Request &request, Socket passed, Socket &hand_over) {
        switch (request.kind) {
        case Kind::open:
            if (!request.target.peer.empty())
                return {.result = registry_.open(request.socket, request.target, std::move(passed)),
                        .peer = {}};
            return {.result = registry_.open_all(request.socket, std::move(passed)), .peer = {}};
        case Kind::expect:
            registry_.expect(request.socket, request.target);
            return {};
        case Kind::close:
            registry_.close(request.fd);
            return {};
        case Kind::give_way:
            return {.result = registry_.give_way() ? 0 : ENOENT, .peer = {}};
        case Kind::fetch:
            return passed ? handoff_.fetch_by_proof(passed, hand_over)
                          : handoff_.fetch(request.doorbell, hand_over);
        }
        return {.result = EINVAL, .peer = {}};
    }

    Scheduler scheduler_;
    ControlServer control_;
    Handoff handoff_;
    Registry registry_;
};

void run_thread() {
    libc().pass_this_thread();
    EngineThread *engine = nullptr;
    try {
        if (unshare_descriptors())
            // Never destroyed: it ends with the process.
            engine = new EngineThread(*engine_settings);
        else
            log::error("nothing is punched: no descriptor table of its own for the engine: {}",
                       strerrordesc_np(errno));
    } catch (const std::exception &error) {
        log::error("nothing is punched: {}", error.what());
    }
    if (engine)
        engine_address = engine->address();
    owner = Owner{getpid(), engine ? State::running : State::none};
    owner.notify_all();
    if (engine)
        engine->run();
}

/// True once the thread of this process listens.
bool ensure_thread(const Settings &settings) {
    pid_t self = getpid();
    Owner seen = owner;
    for (;;) {
        if (seen.process == self && seen.state == State::running)
            return true;
        if (seen.process == self && seen.state == State::starting) {
            owner.wait(seen);
            seen = owner;
            if (seen.state == State::none)
                return false;
            continue;
        }
        if (!owner.compare_exchange_strong(seen, Owner{self, State::starting}))
            continue;
        engine_settings = &settings;
        if (int error = start_thread("synergy", run_thread); error != 0) {
            log::error("nothing is punched: no thread: {}", strerrordesc_np(error));
            owner = Owner{self, State::none};
            owner.notify_all();
            return false;
        }
        seen = Owner{self, State::starting};
    }
}

int send_request(const Request &request, int pass) {
    Request sealed = request;
    sealed.secret = Family::get().secret();
    errno = 0;
    auto answer = ask(engine_address, sealed, pass, nullptr);
    if (answer)
        return answer->result;
    // No answer in time: it is busy with the request. (errno 0: it isn't the engine that answers.)
    if (errno == EAGAIN)
        return 0;
    return errno != 0 ? errno : EIO;
}

} // namespace

int request_of_engine(const Settings &settings, const Request &request, int pass) {
    return ensure_thread(settings) ? send_request(request, pass) : EAGAIN;
}

int request_of_running_engine(const Request &request) {
    Owner now = owner;
    return now.process == getpid() && now.state == State::running ? send_request(request, -1)
                                                                  : ESRCH;
}

} // namespace synergy
