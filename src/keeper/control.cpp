#include "keeper/control.h"

#include "base/abstract_socket.h"

#include <cstddef>
#include <cstring>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <sys/un.h>
#include <system_error>
#include <type_traits>
#include <unistd.h>

namespace synergy {

// Both ends are one binary in one family of processes, so a message is its bytes.
static_assert(std::is_trivially_copyable_v<Request> && std::is_trivially_copyable_v<Answer>);

namespace {

constexpr std::chrono::seconds patience{2};

/// One message with at most one descriptor beside it.
struct Packet {
    iovec data;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))]{};
    msghdr header{};

    Packet(void *bytes, std::size_t size) : data{bytes, size} {
        header.msg_iov = &data;
        header.msg_iovlen = 1;
    }

    bool send(int fd, int pass) {
        if (pass >= 0) {
            header.msg_control = control;
            header.msg_controllen = sizeof control;
            cmsghdr *extra = CMSG_FIRSTHDR(&header);
            extra->cmsg_level = SOL_SOCKET;
            extra->cmsg_type = SCM_RIGHTS;
            extra->cmsg_len = CMSG_LEN(sizeof(int));
            std::memcpy(CMSG_DATA(extra), &pass, sizeof pass);
        }
        ssize_t sent;
        do
            sent = libc().sendmsg(fd, &header, MSG_NOSIGNAL);
        while (sent < 0 && errno == EINTR);
        return sent == static_cast<ssize_t>(data.iov_len);
    }

    bool receive(int fd, Socket &passed) {
        header.msg_control = control;
        header.msg_controllen = sizeof control;
        ssize_t got;
        do
            got = libc().recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
        while (got < 0 && errno == EINTR);
        if (got < 0)
            return false;
        // The room for one descriptor, aligned, has room for two: a stranger's are closed again.
        cmsghdr *extra = CMSG_FIRSTHDR(&header);
        if (extra && extra->cmsg_level == SOL_SOCKET && extra->cmsg_type == SCM_RIGHTS) {
            std::size_t count = (extra->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (std::size_t i = count; i-- > 0;) {
                int received = -1;
                std::memcpy(&received, CMSG_DATA(extra) + i * sizeof received, sizeof received);
                passed = Socket(received);
            }
        }
        return got == static_cast<ssize_t>(data.iov_len);
    }
};

} // namespace

std::optional<Answer> ask(const EngineAddress &engine, const Request &request, int pass,
                          Socket *received) {
    Socket socket = connected_to({engine.name.data(), engine.name.size()}, patience);
    if (!socket)
        return std::nullopt;
    // The name may be another's by now, who must not learn the secret.
    auto owner = peer_credentials(socket);
    if (!owner || owner->pid != engine.process)
        return std::nullopt;
    // What comes back must find a free number, or it is gone: one is kept for it.
    Socket place;
    if (received && !(place = Socket(fcntl(socket.fd(), F_DUPFD_CLOEXEC, 0))))
        return std::nullopt;
    Request copy = request;
    if (!Packet(&copy, sizeof copy).send(socket.fd(), pass))
        return std::nullopt;
    place.reset();
    Answer answer;
    Socket passed;
    if (!Packet(&answer, sizeof answer).receive(socket.fd(), passed))
        return std::nullopt;
    if (received)
        *received = std::move(passed);
    return answer;
}

ControlServer::ControlServer(Scheduler &scheduler, const Secret &secret, Handler handler)
    : scheduler_(scheduler), secret_(secret), handler_(std::move(handler)),
      listener_(Socket::open(AF_UNIX, SOCK_SEQPACKET)) {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    // A bind() of the family alone has the kernel choose a free abstract name (unix(7)).
    if (!listener_ ||
        libc().bind(listener_.fd(), reinterpret_cast<sockaddr *>(&name), sizeof(sa_family_t)) !=
            0 ||
        libc().listen(listener_.fd(), 1024) != 0)
        throw std::system_error(errno, std::generic_category(), "Unix socket");
    socklen_t length = sizeof name;
    getsockname(listener_.fd(), reinterpret_cast<sockaddr *>(&name), &length);
    std::memcpy(address_.name.data(), name.sun_path + 1, address_.name.size());
    address_.process = getpid();
    listen_again();
}

void ControlServer::accept_one() {
    Socket caller(libc().accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!caller) {
        if (errno != EMFILE && errno != ENFILE)
            return;
        // It would be reported again and again until a descriptor is free.
        scheduler_.unwatch(listener_.fd());
        scheduler_.at(Clock::now() + std::chrono::milliseconds(100), [this] { listen_again(); });
        return;
    }
    int fd = caller.fd();
    std::uint64_t id = next_id_++;
    callers_[fd] = {std::move(caller), id};
    scheduler_.watch(fd, EPOLLIN, [this, fd](std::uint32_t) { serve(fd); });
    expect_soon(fd, id);
}

void ControlServer::listen_again() {
    scheduler_.watch(listener_.fd(), EPOLLIN, [this](std::uint32_t) { accept_one(); });
}

/// Anybody on this host may call: who then says nothing must not hold a descriptor for long.
void ControlServer::expect_soon(int fd, std::uint64_t id) {
    scheduler_.at(Clock::now() + patience, [this, fd, id] {
        auto found = callers_.find(fd);
        if (found == callers_.end() || found->second.id != id)
            return;
        scheduler_.unwatch(fd);
        callers_.erase(found);
    });
}

void ControlServer::serve(int fd) {
    Socket caller = std::move(callers_[fd].socket);
    callers_.erase(fd);
    scheduler_.unwatch(fd);
    Request request;
    Socket passed;
    if (!Packet(&request, sizeof request).receive(caller.fd(), passed))
        return;
    if (request.secret != secret_ && (request.kind != Kind::fetch || !passed))
        return;
    Socket hand_over;
    Answer answer = handler_(request, std::move(passed), hand_over);
    Packet(&answer, sizeof answer).send(caller.fd(), hand_over.fd());
}

} // namespace synergy
