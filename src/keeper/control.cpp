#include "keeper/control.h"

#include "base/abstract_socket.h"
#include "base/close_apart.h"
#include "base/last_descriptors.h"
#include "base/log.h"
#include "base/log_thread.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cstring>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/un.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

namespace synergy {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// Who connects and says nothing is not waited for longer.
constexpr Duration patience = seconds(2);
/// How many of them each other user may have at a time.
constexpr unsigned idle_strangers = 64;
constexpr int backlog = 1024;

std::string_view text(const synergy_address &address) {
    return {address.name, address.length};
}

/// The secret is compared without telling how much of it was right.
bool is_equal(const synergy_secret &one, const synergy_secret &other) {
    unsigned difference = 0;
    for (std::size_t i = 0; i < sizeof one.bytes; i++)
        difference |= static_cast<unsigned>(one.bytes[i] ^ other.bytes[i]);
    return difference == 0;
}

std::string random_name() {
    std::uint64_t number = 0;
    if (getrandom(&number, sizeof number, 0) != sizeof number)
        throw std::system_error(errno, std::generic_category(), "getrandom");
    return fmt::format(SYNERGY_KEEPER_NAME "{:012x}", number >> 16);
}

/// Who could harm this process anyway.
bool is_trusted_user(uid_t user) {
    return user == 0 || user == geteuid();
}

/// Listens at an abstract name; empty and errno set if it can't be had.
Socket listening_at(std::string_view name) {
    sockaddr_un address;
    const socklen_t length = abstract_address(address, name);
    Socket listener = Socket::open(AF_UNIX, SOCK_SEQPACKET);
    if (!listener || ::bind(listener.fd(), reinterpret_cast<sockaddr *>(&address), length) != 0 ||
        ::listen(listener.fd(), backlog) != 0)
        listener.reset();
    return listener;
}

/// The same, at one that can be done without.
Socket listening_if_spare_at(std::string_view name) {
    Socket listener = listening_at(name);
    if (listener && is_one_of_the_last(listener, spared_by_all)) {
        listener.reset();
        errno = EMFILE;
    }
    return listener;
}

/// Whether there is anything that was sent and not read. To be called when nothing more can come.
bool has_unread(const Socket &connection) {
    // With this option every message has something beside it, and there is no room for that here:
    // which tells an empty message from the end.
    connection.set(SOL_SOCKET, SO_PASSCRED, 1);
    msghdr header{};
    return ::recvmsg(connection.fd(), &header, MSG_PEEK | MSG_DONTWAIT) >= 0 &&
           (header.msg_flags & MSG_CTRUNC) != 0;
}

/// Whether the other end is closed: who asked has ended, or no longer waits.
bool has_hung_up(const Socket &connection) {
    pollfd end{.fd = connection.fd(), .events = 0, .revents = 0};
    return ::poll(&end, 1, 0) == 1 && (end.revents & POLLHUP) != 0;
}

} // namespace

/// A request as it lies in the queue, with a descriptor of what came along.
struct Control::Message {
    synergy_request request{};
    Socket passed;
    ssize_t size = -1;
    bool is_whole = false;
    bool is_without_room = false; ///< for what came along: no descriptor is left here

    explicit Message(const Socket &connection) {
        iovec data{.iov_base = &request, .iov_len = sizeof request};
        alignas(cmsghdr) std::array<char, CMSG_LEN(sizeof(int))> control{};
        msghdr header{};
        header.msg_iov = &data;
        header.msg_iovlen = 1;
        header.msg_control = control.data();
        header.msg_controllen = control.size(); // room for one descriptor exactly
        size = ::recvmsg(connection.fd(), &header, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (size < 0)
            return;
        passed = descriptor_in(header);
        const bool is_known = size == sizeof request && (header.msg_flags & MSG_TRUNC) == 0 &&
                              request.version == SYNERGY_WIRE_VERSION;
        const bool is_cut_off = (header.msg_flags & MSG_CTRUNC) != 0;
        is_whole = is_known && !is_cut_off;
        is_without_room = is_known && is_cut_off && !passed;
    }
};

Control::Control(Scheduler &scheduler, const synergy_secret &secret, Handler handler)
    : scheduler_(scheduler), secret_(secret), handler_(std::move(handler)), burial_(scheduler) {
    const std::string own = random_name();
    Socket listener = listening_at(own);
    if (!listener)
        throw std::system_error(errno, std::generic_category(), "Unix socket");
    address_.process = getpid();
    address_.length = static_cast<std::uint8_t>(own.size());
    std::memcpy(address_.name, own.data(), own.size());
    listen_at(std::move(listener));
}

Control::~Control() {
    for (auto &entry : listeners_) {
        scheduler_.unwatch(entry.first);
        buried_.push_back(std::move(entry.second));
    }
    for (auto &entry : released_)
        buried_.push_back(std::move(entry.second));
    for (auto &entry : callers_) {
        scheduler_.unwatch(entry.first);
        buried_.push_back(std::move(entry.second.connection));
    }
    close_apart(std::move(buried_));
    if (starter_.connection)
        scheduler_.unwatch(starter_.connection.fd());
}

void Control::serve_starter(Socket connection, pid_t process) {
    starter_.connection = std::move(connection);
    starter_.process = process;
    scheduler_.watch(starter_.connection.fd(), EPOLLIN, [this](std::uint32_t) {
        if (serve(starter_, true) != Served::refused)
            return;
        scheduler_.unwatch(starter_.connection.fd());
        starter_.connection.reset();
    });
}

int Control::claim(std::uint64_t cookie) {
    if (names_.contains(cookie))
        return 0;
    // A listener that was shut down listens again.
    if (const auto released = released_.find(cookie); released != released_.end()) {
        names_[cookie] = released->second.fd();
        listen_at(std::move(released->second));
        released_.erase(released);
        return 0;
    }
    synergy_address wanted{};
    synergy_name_of(cookie, &wanted);
    // Between the two, whoever has the name may go.
    constexpr int attempts = 100;
    int error = 0;
    for (int attempt = 0; attempt < attempts; attempt++) {
        if (Socket name = listening_if_spare_at(text(wanted)); name) {
            names_[cookie] = name.fd();
            listen_at(std::move(name));
            return 0;
        }
        error = errno;
        if (error != EADDRINUSE)
            break;
        const Socket holder = connected_to(text(wanted), seconds(1), SOCK_NONBLOCK);
        if (!holder)
            continue;
        const auto owner = peer_credentials(holder);
        if (owner && owner->pid == getpid()) { // it is being closed (base/close_apart.h)
            sched_yield();
            continue;
        }
        if (owner && is_trusted_user(owner->uid))
            return EEXIST;
        break;
    }
    if (error == EADDRINUSE)
        log::warn("another user has the name by which further processes find a socket's keeper "
                  "(@{}): a program that is executed with the socket will not hand over any "
                  "connection",
                  text(wanted));
    else if (error != EMFILE && error != ENFILE) // for want of which nothing is punched, either
        log::warn("@{}: {}", text(wanted), strerrordesc_np(error));
    return 0;
}

void Control::claim_port(std::uint64_t cookie, int transport, std::uint16_t port) {
    if (ports_.contains(cookie))
        return;
    synergy_address wanted{};
    synergy_port_name(transport, port, &wanted);
    Socket name = listening_if_spare_at(text(wanted));
    if (!name)
        return;
    ports_[cookie] = name.fd();
    listen_at(std::move(name));
}

bool Control::has_port_of(std::uint64_t cookie) const {
    return ports_.contains(cookie);
}

void Control::hand_on_port(std::uint64_t before, std::uint64_t now) {
    auto port = ports_.extract(before);
    if (port.empty())
        return;
    port.key() = now;
    ports_.insert(std::move(port));
}

void Control::release_port(std::uint64_t cookie) {
    const auto port = ports_.find(cookie);
    if (port == ports_.end())
        return;
    scheduler_.unwatch(port->second);
    // At once, for the next listener's keeper: with nobody who waits there, and could send along
    // what takes long to close.
    const Socket name = std::move(listeners_.at(port->second));
    ::shutdown(name.fd(), SHUT_RDWR);
    while (Socket waiting{accept4(name.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)})
        bury(std::move(waiting));
    listeners_.erase(port->second);
    ports_.erase(port);
}

void Control::release(std::uint64_t cookie) {
    const auto found = names_.find(cookie);
    if (found == names_.end())
        return;
    const auto listener = listeners_.find(found->second);
    scheduler_.unwatch(listener->first);
    released_[cookie] = std::move(listener->second); // with whoever waits to be accepted
    bury({});
    listeners_.erase(listener);
    names_.erase(found);
}

void Control::serve_waiting() {
    std::vector<int> all;
    for (const auto &entry : listeners_)
        all.push_back(entry.first);
    for (int listener : all)
        for (int i = 0; i < backlog && listeners_.contains(listener) && accept_one(listener); i++)
            ;
}

void Control::listen_at(Socket listener) {
    const int fd = listener.fd();
    listeners_[fd] = std::move(listener);
    scheduler_.watch(fd, EPOLLIN, [this, fd](std::uint32_t) { accept_one(fd); });
}

/// False if nobody is there.
bool Control::accept_one(int listener) {
    // What is said next may be about what they say.
    for (const int fd : std::vector<int>(going_on_.begin(), going_on_.end()))
        if (going_on_.contains(fd))
            hear(fd);
    Caller caller;
    caller.connection = Socket(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!caller.connection) {
        if (errno == EMFILE || errno == ENFILE) {
            // It would be reported again and again until a descriptor is free.
            scheduler_.unwatch(listener);
            scheduler_.at(Clock::now() + milliseconds(100), [this, listener] {
                if (listeners_.contains(listener))
                    scheduler_.watch(listener, EPOLLIN,
                                     [this, listener](std::uint32_t) { accept_one(listener); });
            });
        }
        return false;
    }
    if (const auto owner = peer_credentials(caller.connection)) {
        caller.process = owner->pid;
        caller.user = owner->uid;
        const Served served = serve(caller, false);
        if (served == Served::nothing_yet || served == Served::goes_on) {
            wait_for(std::move(caller), served == Served::goes_on);
            return true;
        }
    }
    leave(std::move(caller));
    return true;
}

/// `goes_on`: who has been known by the secret; there are no more of them than the server calls
/// listen().
void Control::wait_for(Caller caller, bool goes_on) {
    unsigned &others = waiting_[caller.user];
    const int fd = caller.connection.fd();
    if ((!goes_on && !is_trusted_user(caller.user) && others >= idle_strangers) ||
        !scheduler_.watch(fd, EPOLLIN, [this, fd](std::uint32_t) { hear(fd); })) {
        leave(std::move(caller));
        return;
    }
    others++;
    const std::uint64_t id = caller.id = ++next_id_;
    callers_[fd] = std::move(caller);
    if (goes_on)
        going_on_.insert(fd);
    scheduler_.at(Clock::now() + patience, [this, fd, id] {
        const auto found = callers_.find(fd);
        if (found != callers_.end() && found->second.id == id)
            wait_no_longer(fd);
    });
}

void Control::hear(int fd) {
    const bool was_going_on = going_on_.erase(fd) != 0; // others may be served within this
    const Served served = serve(callers_.at(fd), false);
    if (served == Served::goes_on || (served == Served::nothing_yet && was_going_on))
        going_on_.insert(fd);
    else if (served != Served::nothing_yet)
        wait_no_longer(fd);
}

void Control::wait_no_longer(int fd) {
    Caller caller = std::move(callers_.extract(fd).mapped());
    going_on_.erase(fd);
    waiting_[caller.user]--;
    scheduler_.unwatch(fd);
    leave(std::move(caller));
}

Control::Served Control::serve(const Caller &caller, bool is_starter) {
    Message message(caller.connection);
    if (message.size < 0 && (errno == EAGAIN || errno == EINTR))
        return Served::nothing_yet;
    const synergy_request &request = message.request;
    const bool knows_secret = is_starter || is_equal(request.secret, secret_);
    if (message.is_without_room && knows_secret) {
        synergy_answer answer{};
        answer.result = EMFILE;
        tell(caller.connection, answer, -1);
    }
    if (!message.is_whole)
        return Served::refused;
    const bool shows_proof =
        message.passed && (request.kind == SYNERGY_FETCH || request.kind == SYNERGY_MEET);
    const bool is_trusted = is_starter || is_trusted_user(caller.user);
    const bool asks_status = request.kind == SYNERGY_STATUS && is_trusted;
    const bool asks_for_port = is_trusted && ((request.kind == SYNERGY_BIND && message.passed) ||
                                              (request.kind == SYNERGY_ADOPT && message.passed) ||
                                              (request.kind == SYNERGY_TAKE && message.passed) ||
                                              request.kind == SYNERGY_GIVE_WAY);
    if (!knows_secret && !shows_proof && !asks_status && !asks_for_port)
        return Served::refused;
    // The connection would be lost with the answer, so the bell rings again; or another keeper has
    // given it to somebody else by now.
    if ((request.kind == SYNERGY_FETCH || request.kind == SYNERGY_TAKE) &&
        has_hung_up(caller.connection))
        return Served::refused;
    Reply reply = handler_({request, caller.process, is_trusted, knows_secret, message.passed});
    const bool is_servers = knows_secret || reply.is_proof || asks_status || asks_for_port;
    if (is_servers) {
        // Looked at so far, and now taken. What came along is the server's, which has it as well,
        // and which may close it as soon as it has the answer: then its port is to be free.
        static_cast<void>(::recv(caller.connection.fd(), nullptr, 0, MSG_DONTWAIT));
        if (reply.show != message.passed.fd() && !reply.afterwards)
            message.passed.reset();
    }
    if (request.kind != SYNERGY_HERE && request.kind != SYNERGY_EXECUTED_WITHOUT &&
        request.kind != SYNERGY_LISTENS) {
        const bool is_told = tell(caller.connection, reply.answer,
                                  reply.hand_over ? reply.hand_over.fd() : reply.show);
        if (reply.handed_over)
            reply.handed_over(is_told, std::move(reply.hand_over));
    }
    // Whoever is told next that it is closed waits until this is done, and the duplicate is gone.
    if (reply.afterwards)
        reply.afterwards(message.passed);
    if (!is_servers)
        return Served::refused;
    return reply.goes_on ? Served::goes_on : Served::done;
}

bool Control::tell(const Socket &connection, synergy_answer answer, int pass) {
    answer.version = SYNERGY_WIRE_VERSION;
    // What is said of it stands there when the server goes on, which may be its end.
    log_thread::catch_up();
    // (unix(7): ETOOMANYREFS where all processes of this user together have more descriptors on
    // their way than this one may have open. With the answer a peer's connection would be lost.)
    constexpr int tries = 500;
    constexpr auto rest = std::chrono::milliseconds(1);
    for (int tried = 1; !send_with(connection, &answer, sizeof answer, pass); tried++) {
        if (errno != ETOOMANYREFS || tried == tries)
            return false;
        std::this_thread::sleep_for(rest);
    }
    return true;
}

/// Ends a connection, without ever waiting for what it may hold.
void Control::leave(Caller caller) {
    ::shutdown(caller.connection.fd(), SHUT_RD);
    if (has_unread(caller.connection))
        bury(std::move(caller.connection));
}

void Control::bury(Socket socket) {
    // Many at once.
    constexpr Duration shortly = milliseconds(5);
    if (buried_.empty())
        burial_.set(Clock::now() + shortly, [this] {
            for (auto &entry : released_)
                buried_.push_back(std::move(entry.second));
            released_.clear();
            close_apart(std::exchange(buried_, {}));
        });
    buried_.push_back(std::move(socket));
}

} // namespace synergy
