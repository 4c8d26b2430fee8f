// A keeper that is started and asked over its socket, as the shim does it, and what that takes.
#pragma once

#include "harness.h"
#include "server/server_socket.h"
#include "wire.h"

#include <doctest/doctest.h>

#include <array>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <sys/mman.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace harness {

using std::chrono::milliseconds;
using std::chrono::seconds;
using synergy::Duration;
using synergy::Endpoint;
using synergy::Socket;

struct Answered {
    bool is_there = false;
    synergy_answer answer{};
    Socket received{};
};

inline Answered receive(const Socket &from) {
    Answered answered;
    iovec data{.iov_base = &answered.answer, .iov_len = sizeof answered.answer};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    answered.is_there = is_readable(from.fd(), seconds(5)) &&
                        ::recvmsg(from.fd(), &header, MSG_CMSG_CLOEXEC) == sizeof answered.answer;
    if (const cmsghdr *extra = CMSG_FIRSTHDR(&header); answered.is_there && extra != nullptr) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(extra), sizeof fd);
        answered.received = Socket(fd);
    }
    return answered;
}

inline bool send_to(const Socket &to, const void *bytes, std::size_t size,
                    const std::vector<int> &pass) {
    iovec data{.iov_base = const_cast<void *>(bytes), .iov_len = size};
    std::vector<char> control(CMSG_SPACE(sizeof(int) * pass.size()));
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    if (!pass.empty()) {
        header.msg_control = control.data();
        header.msg_controllen = control.size();
        cmsghdr *extra = CMSG_FIRSTHDR(&header);
        extra->cmsg_level = SOL_SOCKET;
        extra->cmsg_type = SCM_RIGHTS;
        extra->cmsg_len = CMSG_LEN(sizeof(int) * pass.size());
        std::memcpy(CMSG_DATA(extra), pass.data(), sizeof(int) * pass.size());
    }
    return ::sendmsg(to.fd(), &header, MSG_NOSIGNAL) == static_cast<ssize_t>(size);
}

inline Socket connected(const synergy_address &address) {
    Socket socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path + 1, address.name, address.length);
    const auto length =
        static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + address.length);
    if (::connect(socket.fd(), reinterpret_cast<sockaddr *>(&name), length) != 0)
        socket.reset();
    return socket;
}

/// A keeper, started for this process as the shim does it. It is killed with the value.
class Kept {
  public:
    explicit Kept(std::vector<std::string> environment, const char *argument = nullptr) {
        int ends[2], log[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
        REQUIRE(::pipe2(log, O_CLOEXEC | O_NONBLOCK) == 0);
        start = Socket(ends[0]);
        log_ = Socket(log[0]);
        // What a sanitizer finds is an end that a test sees. (Leaks it could look for only as long
        // as a process may be traced.)
        environment.emplace_back("ASAN_OPTIONS=detect_leaks=0");
        environment.emplace_back("UBSAN_OPTIONS=halt_on_error=1");
        // (The first of a name counts.)
        environment.emplace_back("SYNERGY_CONFIG=/dev/null");
        std::vector<char *> variables;
        for (std::string &variable : environment)
            variables.push_back(variable.data());
        variables.push_back(nullptr);
        const char *arguments[] = {"synergy-keeper", argument, nullptr};
        process = ::fork();
        if (process == 0) {
            const int path = ::open(("/proc/self/fd/" + std::to_string(log[1])).c_str(), O_PATH);
            ::dup2(ends[1], 100);
            ::dup2(path, 101);
            ::dup2(100, SYNERGY_START_FD);
            ::dup2(101, SYNERGY_STDERR_FD);
            ::close_range(SYNERGY_STDERR_FD + 1, ~0U, 0);
            const int null = ::open("/dev/null", O_RDWR);
            for (int fd = 0; fd <= 2; fd++)
                ::dup2(null, fd);
            ::execve(SYNERGY_KEEPER, const_cast<char **>(arguments), variables.data());
            ::_exit(127);
        }
        ::close(ends[1]);
        writer_ = Socket(log[1]);
        started = receive(start);
        if (!started.received)
            return;
        void *memory = ::mmap(nullptr, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED,
                              started.received.fd(), 0);
        REQUIRE(memory != MAP_FAILED);
        page = static_cast<synergy_page *>(memory);
    }
    ~Kept() {
        // (Its standby is not to take its place.)
        if (page != nullptr) {
            synergy_set_over(page);
            ::munmap(page, sizeof *page);
        }
        if (process > 0) {
            ::kill(process, SIGKILL);
            ::waitpid(process, nullptr, 0);
        }
    }
    Kept(const Kept &) = delete;
    Kept &operator=(const Kept &) = delete;

    [[nodiscard]] synergy_request request(synergy_kind kind, std::uint64_t cookie = 0) const {
        synergy_request request{};
        request.version = SYNERGY_WIRE_VERSION;
        request.kind = kind;
        request.hop_limit = -1;
        request.cookie = cookie;
        if (page != nullptr)
            request.secret = page->secret;
        return request;
    }
    [[nodiscard]] Answered ask(const synergy_request &request, int pass = -1) const {
        return ask(page->keeper, request, pass);
    }
    [[nodiscard]] static Answered ask(const synergy_address &address,
                                      const synergy_request &request, int pass = -1) {
        const Socket socket = connected(address);
        const std::vector<int> passed(pass >= 0 ? 1 : 0, pass);
        if (!socket || !send_to(socket, &request, sizeof request, passed))
            return {};
        return receive(socket);
    }
    /// The result; -1: no answer.
    [[nodiscard]] int result_of(synergy_kind kind, const Socket &socket) const {
        const Answered answered = ask(request(kind, synergy::cookie_of(socket.fd())), socket.fd());
        return answered.is_there ? answered.answer.result : -1;
    }
    [[nodiscard]] int open(const Socket &socket) const { return result_of(SYNERGY_OPEN, socket); }
    [[nodiscard]] int closed(std::uint64_t cookie) const {
        const Answered answered = ask(request(SYNERGY_CLOSED, cookie));
        return answered.is_there ? answered.answer.result : -1;
    }
    [[nodiscard]] bool ends_within(Duration limit) {
        const bool has_ended =
            wait_until([&] { return ::waitpid(process, &status, WNOHANG) == process; }, limit);
        if (has_ended)
            process = -1;
        return has_ended;
    }
    [[nodiscard]] std::string log() const {
        std::string text;
        std::array<char, 4096> buffer{};
        for (ssize_t got; (got = ::read(log_.fd(), buffer.data(), buffer.size())) > 0;)
            text.append(buffer.data(), static_cast<std::size_t>(got));
        return text;
    }
    /// Soon after the first socket there is a standby.
    [[nodiscard]] std::size_t descriptors_at_rest() const {
        std::this_thread::sleep_for(milliseconds(400));
        return descriptors();
    }
    [[nodiscard]] std::size_t descriptors() const {
        std::size_t count = 0;
        for (int fd = 0; fd < 1024; fd++) {
            char target[64];
            const std::string link =
                "/proc/" + std::to_string(process) + "/fd/" + std::to_string(fd);
            count += ::readlink(link.c_str(), target, sizeof target) > 0 ? 1U : 0U;
        }
        return count;
    }

    pid_t process = -1;
    int status = 0;
    Socket start;
    Answered started;
    synergy_page *page = nullptr;

  private:
    Socket log_, writer_;
};

/// How many sockets of this local port have sent a SYN and got no answer.
inline std::size_t punching_from(std::uint16_t port) {
    // By what tells one from another: where others come and go, the kernel shows some twice.
    std::set<std::string> found;
    for (const char *table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
        std::ifstream lines(table);
        for (std::string line; std::getline(lines, line);) {
            std::istringstream words(line);
            std::string slot, local, remote, state, queues, timer, retransmissions, user, timeout,
                inode;
            words >> slot >> local >> remote >> state >> queues >> timer >> retransmissions >>
                user >> timeout >> inode;
            const std::size_t colon = local.find(':');
            if (state == "02" && colon != std::string::npos &&
                std::stoul(local.substr(colon + 1), nullptr, 16) == port)
                found.insert(inode);
        }
    }
    return found.size();
}

/// As the shim leaves a listener.
inline Socket listener_at(const Endpoint &at, bool is_listening = true) {
    Socket socket(::socket(at.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    // Afterwards, or the kernel may choose a port that another test's listener has shared.
    REQUIRE(::bind(socket.fd(), at.data(), at.length()) == 0);
    socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
    socket.set(SOL_SOCKET, SO_REUSEADDR, 1);
    if (is_listening)
        REQUIRE(::listen(socket.fd(), 16) == 0);
    return socket;
}
inline Socket any_listener() {
    return listener_at(Endpoint::wildcard(AF_INET, 0));
}
inline Socket bound_udp(const Endpoint &at) {
    Socket socket(::socket(at.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
    REQUIRE(::bind(socket.fd(), at.data(), at.length()) == 0);
    return socket;
}

/// A port of this host where a listener takes no more connections: a SYN stays without an answer.
struct DeafPeer {
    Socket listener = listening_tcp(Endpoint::loopback(AF_INET, 0), 0);
    Socket filling{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};

    DeafPeer() {
        const Endpoint at = listener.local();
        REQUIRE(::connect(filling.fd(), at.data(), at.length()) == 0);
    }
    [[nodiscard]] std::string variable() const {
        return "SYNERGY_PEERS=" + listener.local().text();
    }
};

inline const std::string some_peer = "SYNERGY_PEERS=[2001:db8::5]:5555";
inline const std::string hops = "SYNERGY_HOPS=3";

} // namespace harness
