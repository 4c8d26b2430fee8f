// The keeper as it is: the program is started, and asked over its socket, as the shim does it.
#include "harness.h"
#include "server/server_socket.h"
#include "server/traffic.h"
#include "wire.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sstream>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace synergy;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

struct Answered {
    bool is_there = false;
    synergy_answer answer{};
    Socket received{};
};

Answered receive(const Socket &from) {
    Answered answered;
    iovec data{.iov_base = &answered.answer, .iov_len = sizeof answered.answer};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    answered.is_there = harness::is_readable(from.fd(), seconds(5)) &&
                        ::recvmsg(from.fd(), &header, MSG_CMSG_CLOEXEC) == sizeof answered.answer;
    if (const cmsghdr *extra = CMSG_FIRSTHDR(&header); answered.is_there && extra != nullptr) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(extra), sizeof fd);
        answered.received = Socket(fd);
    }
    return answered;
}

bool send_to(const Socket &to, const void *bytes, std::size_t size, const std::vector<int> &pass) {
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

Socket connected(const synergy_address &address) {
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
        const Answered answered = ask(request(kind, cookie_of(socket.fd())), socket.fd());
        return answered.is_there ? answered.answer.result : -1;
    }
    [[nodiscard]] int open(const Socket &socket) const { return result_of(SYNERGY_OPEN, socket); }
    [[nodiscard]] int closed(std::uint64_t cookie) const {
        const Answered answered = ask(request(SYNERGY_CLOSED, cookie));
        return answered.is_there ? answered.answer.result : -1;
    }
    [[nodiscard]] bool ends_within(Duration limit) {
        const bool has_ended = harness::wait_until(
            [&] { return ::waitpid(process, &status, WNOHANG) == process; }, limit);
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
std::size_t punching_from(std::uint16_t port) {
    std::size_t count = 0;
    for (const char *table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
        std::ifstream lines(table);
        for (std::string line; std::getline(lines, line);) {
            std::istringstream words(line);
            std::string slot, local, remote, state;
            words >> slot >> local >> remote >> state;
            const std::size_t colon = local.find(':');
            if (state == "02" && colon != std::string::npos &&
                std::stoul(local.substr(colon + 1), nullptr, 16) == port)
                count++;
        }
    }
    return count;
}

/// As the shim leaves a listener.
Socket listener_at(const Endpoint &at, bool is_listening = true) {
    Socket socket(::socket(at.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    // Afterwards, or the kernel may choose a port that another test's listener has shared.
    REQUIRE(::bind(socket.fd(), at.data(), at.length()) == 0);
    socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
    socket.set(SOL_SOCKET, SO_REUSEADDR, 1);
    if (is_listening)
        REQUIRE(::listen(socket.fd(), 16) == 0);
    return socket;
}
Socket any_listener() {
    return listener_at(Endpoint::wildcard(AF_INET, 0));
}
Socket bound_udp(const Endpoint &at) {
    Socket socket(::socket(at.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
    REQUIRE(::bind(socket.fd(), at.data(), at.length()) == 0);
    return socket;
}

/// A port of this host where a listener takes no more connections: a SYN stays without an answer.
struct DeafPeer {
    Socket listener = harness::listening_tcp(Endpoint::loopback(AF_INET, 0), 0);
    Socket filling{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};

    DeafPeer() {
        const Endpoint at = listener.local();
        REQUIRE(::connect(filling.fd(), at.data(), at.length()) == 0);
    }
    [[nodiscard]] std::string variable() const {
        return "SYNERGY_PEERS=" + listener.local().text();
    }
};

const std::string some_peer = "SYNERGY_PEERS=[2001:db8::5]:5555";
const std::string hops = "SYNERGY_HOPS=3";

} // namespace

TEST_CASE("keeper: without peers it says so and ends, unless it is asked for a peer") {
    Kept nobody({});
    CHECK(nobody.started.answer.result == ENOENT);
    CHECK_FALSE(nobody.started.received);
    CHECK(nobody.ends_within(seconds(2)));
    CHECK(nobody.status == 0);
    CHECK(nobody.log() == "");

    Kept asked({}, SYNERGY_KEEPER_ASKED);
    CHECK(asked.started.answer.result == 0);
    REQUIRE(asked.page);
    CHECK(synergy_bit(asked.page->ports[0], 4444) == 0);
    CHECK_FALSE(asked.ends_within(milliseconds(200)));

    Kept mistaken({some_peer, "SYNERGY_HOPS=x"});
    CHECK(mistaken.started.answer.result == ENOENT);
    CHECK(mistaken.log().find("SYNERGY_HOPS: 'x': expected") != std::string::npos);
}

TEST_CASE("keeper: a file without a single setting is no settings") {
    const harness::Directory directory;
    const std::string variable = "SYNERGY_CONFIG=" + directory.path("synergy.toml");
    for (const char *content : {"", "# peers = ['192.0.2.1:1']\n\n#hops = 3\n"}) {
        directory.write("synergy.toml", content);
        Kept kept({variable});
        CHECK(kept.started.answer.result == ENOENT);
        CHECK(kept.ends_within(seconds(2)));
        CHECK(kept.log() == "");
    }
    // With one, or with a place for peers, it is the beginning of more.
    directory.write("synergy.toml", "hops = 3\n");
    CHECK(Kept({variable}).started.answer.result == 0);
    directory.write("synergy.toml", "");
    std::filesystem::create_directory(directory.path("peers.d"));
    CHECK(Kept({variable}).started.answer.result == 0);
}

TEST_CASE("keeper: the page tells what the shim needs to know") {
    Kept kept({some_peer, hops, "SYNERGY_PORTS=1 7-9 4444,5000-5030,65535"});
    REQUIRE(kept.started.answer.result == 0);
    CHECK(kept.started.answer.version == SYNERGY_WIRE_VERSION);
    REQUIRE(kept.page);
    CHECK(kept.page->version == SYNERGY_WIRE_VERSION);
    CHECK(kept.page->over == 0);
    CHECK(kept.page->keeper.process == kept.process);
    CHECK(kept.page->user == geteuid());
    CHECK(kept.page->network == network_of(kept.start.fd()));
    CHECK(kept.page->ringing == 0);
    CHECK(kept.page->any_udp_port == 0);
    std::set<unsigned> concerned{1, 7, 8, 9, 4444, 65535};
    for (unsigned port = 5000; port <= 5030; port++)
        concerned.insert(port);
    for (const auto &ports : kept.page->ports)
        for (unsigned port = 0; port < 65536; port++)
            if (synergy_bit(ports, static_cast<std::uint16_t>(port)) !=
                int{concerned.contains(port)})
                FAIL_CHECK(port);
    CHECK(Kept({some_peer}).page->any_udp_port == 1);
    // Nobody who shares it can cut it off.
    CHECK(::ftruncate(kept.started.received.fd(), 0) != 0);
}

TEST_CASE("keeper: it leaves what it inherited behind") {
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    ::signal(SIGTERM, SIG_IGN);
    const mode_t mask = umask(0777);
    Kept kept({some_peer});
    umask(mask);
    ::signal(SIGTERM, SIG_DFL);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    REQUIRE(kept.page);
    CHECK(getsid(kept.process) == kept.process);
    std::ifstream lines("/proc/" + std::to_string(kept.process) + "/status");
    std::string text{std::istreambuf_iterator<char>(lines), {}};
    CHECK(text.find("Umask:\t0022") != std::string::npos);
    // SIGTERM and its like are waited for, and nothing else is blocked.
    CHECK(text.find("SigBlk:\t0000000000004007") != std::string::npos);
    std::array<char, 64> directory{};
    REQUIRE(::readlink(("/proc/" + std::to_string(kept.process) + "/cwd").c_str(), directory.data(),
                       directory.size()) > 0);
    CHECK(directory.data() == std::string("/"));
    CHECK(::kill(kept.process, SIGTERM) == 0);
    CHECK_FALSE(kept.ends_within(milliseconds(100)));
}

TEST_CASE("keeper: the first punch has left when OPEN is answered, and the connection comes out") {
    const Socket peer = harness::listening_tcp(Endpoint::loopback(AF_INET, 0));
    Kept kept({"SYNERGY_PEERS=" + peer.local().text(), hops});
    Socket listener = any_listener();
    const Answered opened =
        kept.ask(kept.request(SYNERGY_OPEN, cookie_of(listener.fd())), listener.fd());
    CHECK(opened.answer.result == 0);
    CHECK(opened.answer.mark == SYNERGY_LISTENER);
    REQUIRE(harness::is_readable(peer.fd(), milliseconds(0)));
    Socket theirs(::accept(peer.fd(), nullptr, nullptr));
    CHECK(theirs.remote().port() == listener.local().port());

    // A bell, and not the peer.
    REQUIRE(harness::is_readable(listener.fd(), seconds(5)));
    CHECK(kept.page->ringing == 1);
    Socket bell(::accept(listener.fd(), nullptr, nullptr));
    CHECK(synergy_is_bell_port(bell.remote().port()));
    // Whoever shows it needs no secret.
    synergy_request fetch = kept.request(SYNERGY_FETCH);
    fetch.secret = {};
    Answered fetched = kept.ask(fetch, bell.fd());
    CHECK(fetched.answer.result == 0);
    REQUIRE(fetched.received);
    CHECK(Endpoint::from(&fetched.answer.peer.any, sizeof fetched.answer.peer) == peer.local());
    CHECK(fetched.received.remote() == peer.local());
    CHECK((fcntl(fetched.received.fd(), F_GETFL) & O_NONBLOCK) == 0);
    char byte = 0;
    CHECK(::send(theirs.fd(), "x", 1, 0) == 1);
    CHECK(::recv(fetched.received.fd(), &byte, 1, 0) == 1);
    CHECK(kept.page->ringing == 0);
    // Once, and nobody who says something else is taken for a bell, or for one that has been.
    CHECK(kept.ask(fetch, bell.fd()).answer.result == ESTALE);
    synergy_bell said{};
    CHECK(::recv(bell.fd(), &said, sizeof said, 0) == sizeof said);
    CHECK(kept.ask(fetch, bell.fd()).answer.result == ENOENT);
}

TEST_CASE("keeper: a connection that who asked for it takes no more rings again") {
    const Socket peer = harness::listening_tcp(Endpoint::loopback(AF_INET, 0));
    Kept kept({"SYNERGY_PEERS=" + peer.local().text(), hops});
    Socket listener = any_listener();
    REQUIRE(kept.open(listener) == 0);
    const Socket theirs(::accept(peer.fd(), nullptr, nullptr));
    REQUIRE(harness::is_readable(listener.fd(), seconds(5)));
    Socket bell(::accept(listener.fd(), nullptr, nullptr));
    synergy_request fetch = kept.request(SYNERGY_FETCH);
    {
        const Socket late = connected(kept.page->keeper);
        REQUIRE(::shutdown(late.fd(), SHUT_RD) == 0);
        REQUIRE(send_to(late, &fetch, sizeof fetch, {bell.fd()}));
        REQUIRE(harness::is_readable(listener.fd(), seconds(5)));
    }
    CHECK(kept.page->ringing == 1);
    bell = Socket(::accept(listener.fd(), nullptr, nullptr));
    Answered fetched = kept.ask(fetch, bell.fd());
    CHECK(fetched.answer.result == 0);
    REQUIRE(fetched.received);
    CHECK(fetched.received.remote() == peer.local());
    CHECK(::send(theirs.fd(), "x", 1, MSG_NOSIGNAL) == 1);
    CHECK(harness::is_readable(fetched.received.fd(), seconds(1)));
}

TEST_CASE("keeper: requests also come by the connection that it was started with") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    Socket listener = any_listener();
    synergy_request open = kept.request(SYNERGY_OPEN, cookie_of(listener.fd()));
    REQUIRE(send_to(kept.start, &open, sizeof open, {listener.fd()}));
    CHECK(receive(kept.start).answer.result == 0);
    CHECK(punching_from(listener.local().port()) == 1);
    const std::size_t descriptors = kept.descriptors_at_rest();
    for (int i = 0; i < 100; i++) {
        REQUIRE(send_to(kept.start, &open, sizeof open, {listener.fd()}));
        CHECK(receive(kept.start).answer.result == 0);
    }
    CHECK(harness::wait_until([&] { return kept.descriptors() <= descriptors; }, seconds(1)));
    kept.start.reset();
    CHECK(kept.open(listener) == 0);
}

TEST_CASE("keeper: who has prepared says by the same connection that it listens, unanswered") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    const auto tell = [&](const Socket &connection, synergy_kind kind, const Socket &socket,
                          const std::vector<int> &pass) {
        synergy_request request = kept.request(kind, cookie_of(socket.fd()));
        CHECK(send_to(connection, &request, sizeof request, pass));
    };
    const auto prepared = [&](Socket &socket) {
        socket = listener_at(Endpoint::wildcard(AF_INET, 0), false);
        socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
        Socket connection = connected(kept.page->keeper);
        tell(connection, SYNERGY_PREPARE, socket, {socket.fd()});
        const Answered answered = receive(connection);
        CHECK(answered.answer.result == 0);
        CHECK(answered.answer.mark == SYNERGY_LISTENER);
        CHECK(harness::wait_until([&] { return punching_from(socket.local().port()) == 1; }));
        return connection;
    };
    const auto says_that_it_listens = [&](const Socket &connection, const Socket &socket) {
        tell(connection, SYNERGY_LISTENS, socket, {});
        char byte = 0;
        CHECK(::recv(connection.fd(), &byte, 1, 0) == 0);
    };
    Socket told, silent, closed;
    const Socket by_told = prepared(told), by_silent = prepared(silent),
                 by_closed = prepared(closed);
    for (const Socket *socket : {&told, &silent, &closed})
        REQUIRE(::listen(socket->fd(), 1) == 0);
    says_that_it_listens(by_told, told);
    CHECK(kept.closed(cookie_of(told.fd())) == 0);
    CHECK(punching_from(told.local().port()) == 1);
    // The control: it is not known to listen.
    CHECK(kept.closed(cookie_of(silent.fd())) == 0);
    CHECK(punching_from(silent.local().port()) == 0);
    // Whoever asks next, by another connection, is answered after that.
    Socket stopped;
    const Socket by_stopped = prepared(stopped);
    REQUIRE(::listen(stopped.fd(), 1) == 0);
    REQUIRE(::kill(kept.process, SIGSTOP) == 0);
    const Socket next = connected(kept.page->keeper);
    tell(next, SYNERGY_CLOSED, stopped, {});
    tell(by_stopped, SYNERGY_LISTENS, stopped, {});
    REQUIRE(::kill(kept.process, SIGCONT) == 0);
    CHECK(receive(next).is_there);
    CHECK(harness::wait_until([&] { return punching_from(stopped.local().port()) == 1; }));
    // Of one that is closed when that is heard nothing is to be said.
    const std::uint16_t port = closed.local().port();
    const std::uint64_t cookie = cookie_of(closed.fd());
    REQUIRE(::shutdown(closed.fd(), SHUT_RDWR) == 0);
    says_that_it_listens(by_closed, closed);
    closed.reset();
    CHECK(kept.closed(cookie) == 0);
    CHECK(punching_from(port) == 0);
    CHECK(kept.log().empty());
}

TEST_CASE("keeper: what it has nothing to punch for") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops, "SYNERGY_PORTS=1-9"});
    const auto mark_of = [&](const Socket &socket) {
        return kept.ask(kept.request(SYNERGY_OPEN), socket.fd()).answer.mark;
    };
    Socket other_port = any_listener();
    CHECK(kept.open(other_port) == ENOENT);
    CHECK(mark_of(other_port) == SYNERGY_UNTOUCHED);
    Socket unix_socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK(kept.open(unix_socket) == EAFNOSUPPORT);
    Socket silent = listener_at(Endpoint::wildcard(AF_INET, 0), false);
    CHECK(kept.open(silent) == EINVAL);
    CHECK(mark_of(silent) == SYNERGY_UNKNOWN);
    Socket file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    CHECK(kept.open(file) == ENOTSOCK);
    CHECK(kept.ask(kept.request(SYNERGY_OPEN)).answer.result == EBADF);
    CHECK(kept.result_of(SYNERGY_MEET, other_port) == ENOENT);
    CHECK(kept.closed(12345) == 0);
    CHECK(kept.ask(kept.request(SYNERGY_GIVE_WAY)).answer.result == ENOENT);
    CHECK(punching_from(other_port.local().port()) == 0);
}

TEST_CASE("keeper: CLOSED frees the port before it is answered, if nobody has the socket") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    Socket listener = any_listener();
    const Endpoint at = listener.local();
    const std::uint64_t cookie = cookie_of(listener.fd());
    REQUIRE(kept.open(listener) == 0);
    REQUIRE(punching_from(at.port()) == 1);
    Socket copy(dup(listener.fd()));
    listener.reset();
    CHECK(kept.closed(cookie) == 0);
    CHECK(punching_from(at.port()) == 1);
    copy.reset();
    CHECK(kept.closed(cookie) == 0);
    CHECK(punching_from(at.port()) == 0);
    Socket plain(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK(::bind(plain.fd(), at.data(), at.length()) == 0);
}

TEST_CASE("keeper: a listener that is shut down takes nobody, though it stays open") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    Socket listener = any_listener();
    const std::uint16_t port = listener.local().port();
    REQUIRE(kept.open(listener) == 0);
    CHECK(punching_from(port) == 1);
    CHECK(kept.closed(cookie_of(listener.fd())) == 0);
    CHECK(punching_from(port) == 1); // it listens
    REQUIRE(::shutdown(listener.fd(), SHUT_RD) == 0);
    CHECK(kept.closed(cookie_of(listener.fd())) == 0);
    CHECK(punching_from(port) == 0);
}

TEST_CASE("keeper: where no bell is answered, no hole is opened again") {
    const Socket peer = harness::listening_tcp(Endpoint::loopback(AF_INET, 0));
    DeafPeer other;
    Kept kept({"SYNERGY_PEERS=" + peer.local().text() + "," + other.listener.local().text(), hops});
    Socket listener = any_listener();
    REQUIRE(kept.open(listener) == 0);
    CHECK(punching_from(listener.local().port()) == 1);
    REQUIRE(harness::is_readable(peer.fd(), seconds(1)));
    const Socket theirs(::accept(peer.fd(), nullptr, nullptr));
    std::vector<Socket> kept_bells; // by a program that knows nothing of bells
    CHECK(harness::wait_until(
        [&] {
            if (harness::is_readable(listener.fd(), milliseconds(0)))
                kept_bells.emplace_back(::accept(listener.fd(), nullptr, nullptr));
            return harness::is_readable(theirs.fd(), milliseconds(0));
        },
        milliseconds(2500)));
    char byte = 0;
    CHECK(::recv(theirs.fd(), &byte, 1, MSG_DONTWAIT) < 0);
    CHECK(errno == ECONNRESET);
    // Of the other peer the socket stands for as long as its hole does, to meet and refuse it. (A
    // keeper that gets no processor in time loses it.)
    std::this_thread::sleep_for(milliseconds(1500)); // a peer's hole opens again after one second
    CHECK(punching_from(listener.local().port()) <= 1);
    CHECK_FALSE(harness::is_readable(peer.fd(), milliseconds(0)));
    const std::string log = kept.log();
    const auto first = log.find("nothing is punched any more");
    CHECK(first != std::string::npos);
    CHECK(log.find("nothing is punched any more", first + 1) == std::string::npos);
    CHECK(kept.open(listener) == 0);
    CHECK(punching_from(listener.local().port()) <= 1);
    CHECK_FALSE(harness::is_readable(peer.fd(), milliseconds(0)));
}

TEST_CASE("keeper: GIVE_WAY does the same for whatever was closed unseen") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    Socket listener = any_listener(), stays = any_listener();
    const std::uint16_t port = listener.local().port();
    REQUIRE(kept.open(listener) == 0);
    REQUIRE(kept.open(stays) == 0);
    CHECK(kept.ask(kept.request(SYNERGY_GIVE_WAY)).answer.result == ENOENT);
    listener.reset();
    CHECK(kept.ask(kept.request(SYNERGY_GIVE_WAY)).answer.result == 0);
    CHECK(punching_from(port) == 0);
    CHECK(punching_from(stays.local().port()) == 1);
}

TEST_CASE(
    "keeper: UDP is sent from beside the server's socket, whose port is free with its last owner") {
    const Socket peer = bound_udp(Endpoint::loopback(AF_INET, 0));
    Kept kept({"SYNERGY_PEERS=" + peer.local().text(), "SYNERGY_HOPS=7"});
    CHECK(kept.page->any_udp_port == 1);
    Socket socket = bound_udp(Endpoint::wildcard(AF_INET, 0));
    const Endpoint at = socket.local();
    const std::uint64_t cookie = cookie_of(socket.fd());
    const Answered opened = kept.ask(kept.request(SYNERGY_OPEN, cookie), socket.fd());
    CHECK(opened.answer.result == 0);
    CHECK(opened.answer.mark == SYNERGY_DATAGRAMS);
    sockaddr_in from{};
    socklen_t length = sizeof from;
    char byte = 0;
    CHECK(::recvfrom(peer.fd(), &byte, 1, MSG_DONTWAIT, reinterpret_cast<sockaddr *>(&from),
                     &length) == 0);
    CHECK(ntohs(from.sin_port) == at.port());
    // As root, it can't look into our descriptor table from then on.
    ::usleep(150000);
    const auto is_free = [&] {
        Socket next(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        return ::bind(next.fd(), at.data(), at.length()) == 0;
    };
    Socket copy(dup(socket.fd()));
    socket.reset();
    CHECK(kept.closed(cookie) == 0);
    CHECK_FALSE(is_free());
    CHECK(kept.result_of(SYNERGY_MEET, copy) == 0); // it is kept still
    copy.reset();
    CHECK(is_free());
    CHECK(kept.closed(cookie) == 0);
    CHECK(kept.result_of(SYNERGY_MEET, Socket()) == ENOENT);
}

TEST_CASE("keeper: the page tells the time while there are datagram sockets, never ahead") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    const Socket listener = any_listener();
    REQUIRE(kept.open(listener) == 0);
    const auto told = [&] {
        return Time(seconds(__atomic_load_n(&kept.page->now, __ATOMIC_RELAXED)));
    };
    CHECK(told() == Time());
    Socket socket = bound_udp(Endpoint::wildcard(AF_INET, 0));
    REQUIRE(kept.open(socket) == 0);
    const Time first = told();
    CHECK(first <= Clock::now());
    CHECK(first > Clock::now() - seconds(2));
    while (told() == first && Clock::now() < first + seconds(5))
        ::usleep(10000);
    CHECK(told() > first);
    CHECK(told() <= Clock::now());
    const std::uint64_t cookie = cookie_of(socket.fd());
    socket.reset();
    REQUIRE(kept.closed(cookie) == 0);
    const Time last = told();
    ::usleep(2200000);
    CHECK(told() <= last + seconds(1));
}

TEST_CASE("keeper: what a UDP server is putting together is not touched, and all that comes is the "
          "server's") {
    const Socket peer = bound_udp(Endpoint::loopback(AF_INET, 0));
    Kept kept({"SYNERGY_PEERS=" + peer.local().text(), "SYNERGY_HOPS=7", "SYNERGY_REFRESH=1"});
    Socket socket = bound_udp(Endpoint::wildcard(AF_INET, 0));
    const Endpoint at = Endpoint::loopback(AF_INET, socket.local().port()), to = peer.local();
    REQUIRE(::sendto(socket.fd(), "to", 2, MSG_MORE, to.data(), to.length()) == 2);
    CHECK(kept.open(socket) == 0);
    std::array<char, 16> data{};
    const auto received = [&] { return ::recv(peer.fd(), data.data(), data.size(), MSG_DONTWAIT); };
    CHECK(received() == 0); // the punch, by itself
    REQUIRE(::sendto(socket.fd(), "gether", 6, 0, to.data(), to.length()) == 6);
    CHECK(received() == 8);
    // Over some renewals.
    int sent = 0, heard = 0, punches = 0;
    const auto end = Clock::now() + milliseconds(3500);
    while (Clock::now() < end) {
        sent += ::sendto(peer.fd(), "x", 1, 0, at.data(), at.length()) == 1 ? 1 : 0;
        heard += ::recv(socket.fd(), data.data(), data.size(), MSG_DONTWAIT) == 1 ? 1 : 0;
        punches += received() == 0 ? 1 : 0;
    }
    CHECK(punches >= 2);
    CHECK(sent > 10000);
    // The kernel has none to compare with before the first punch has told it (see udp_punch.cpp).
    CHECK(heard >= sent - 3);
}

TEST_CASE("keeper: a UDP socket that is connected to somebody else is a client's") {
    Kept kept({"SYNERGY_PEERS=127.0.0.1:9", hops});
    Socket client(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const Endpoint resolver = Endpoint::loopback(AF_INET, 53);
    REQUIRE(::connect(client.fd(), resolver.data(), resolver.length()) == 0);
    CHECK(kept.open(client) == ENOENT);
}

TEST_CASE("keeper: a process that has the socket alone meets it by the cookie") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    Socket listener = any_listener(), other = any_listener();
    REQUIRE(kept.open(listener) == 0);
    synergy_address name{};
    synergy_name_of(cookie_of(listener.fd()), &name);
    synergy_request meet = kept.request(SYNERGY_MEET);
    meet.secret = {};
    const Answered met = Kept::ask(name, meet, listener.fd());
    REQUIRE(met.is_there);
    CHECK(met.answer.result == 0);
    CHECK(met.answer.mark == SYNERGY_LISTENER);
    REQUIRE(met.received);
    void *memory =
        ::mmap(nullptr, sizeof(synergy_page), PROT_READ, MAP_SHARED, met.received.fd(), 0);
    REQUIRE(memory != MAP_FAILED);
    CHECK(std::memcmp(&static_cast<synergy_page *>(memory)->secret, &kept.page->secret,
                      sizeof(synergy_secret)) == 0);
    ::munmap(memory, sizeof(synergy_page));
    // Who has another socket, or none, or can't show that it has it, learns nothing.
    // (The keeper closes without having taken what came along: who reads late finds a reset.)
    const Answered stranger = Kept::ask(name, meet, other.fd());
    CHECK((!stranger.is_there || stranger.answer.result == ENOENT));
    CHECK_FALSE(stranger.received);
    CHECK_FALSE(Kept::ask(name, meet).is_there);
    const std::uint64_t cookie = cookie_of(listener.fd());
    listener.reset();
    CHECK(kept.closed(cookie) == 0);
    CHECK(harness::wait_until([&] { return !connected(name); }, seconds(1)));
}

TEST_CASE("keeper: a socket has one keeper") {
    DeafPeer peer;
    Kept first({peer.variable(), hops}), second({peer.variable(), hops});
    Socket listener = any_listener();
    CHECK(first.open(listener) == 0);
    CHECK(second.open(listener) == EEXIST);
    CHECK(second.result_of(SYNERGY_MEET, listener) == ENOENT);
    CHECK(punching_from(listener.local().port()) == 1);
    ::kill(first.process, SIGKILL);
    REQUIRE(first.ends_within(seconds(2)));
    CHECK(first.page->over == 0); // which tells that it was killed
    CHECK(second.open(listener) == 0);
    CHECK(punching_from(listener.local().port()) == 1);
}

TEST_CASE("keeper: synergy_to() as it is promised") {
    DeafPeer peer;
    Kept kept({}, SYNERGY_KEEPER_ASKED);
    Socket listener = any_listener();
    const auto toward = [&](const Socket &socket, const Endpoint &whom, int hop_limit = 3) {
        synergy_request request = kept.request(SYNERGY_OPEN_TOWARD, cookie_of(socket.fd()));
        request.peer = wire_endpoint(whom);
        request.hop_limit = hop_limit;
        return kept.ask(request, socket.fd()).answer.result;
    };
    const Endpoint there = peer.listener.local();
    CHECK(toward(listener, there, 0) == EINVAL);
    CHECK(toward(listener, there, 255) == EINVAL);
    CHECK(toward(listener, there.with_port(0)) == EINVAL);
    CHECK(toward(listener, Endpoint::wildcard(AF_INET, 5)) == EINVAL);
    CHECK(toward(listener, {}) == ENOTCONN);
    CHECK(toward(listener, Endpoint::loopback(AF_INET6, 5)) == EAFNOSUPPORT);
    CHECK(toward(harness::listening_tcp(Endpoint::loopback(AF_INET, 0)), there) == EINVAL);
    Socket unix_socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK(toward(unix_socket, there) == EAFNOSUPPORT);
    CHECK(punching_from(listener.local().port()) == 0);
    CHECK(toward(listener, there) == 0);
    CHECK(punching_from(listener.local().port()) == 1);

    // Before listen(): remembered, and the shim told to ask for every listener from now on.
    Socket later = listener_at(Endpoint::wildcard(AF_INET, 0), false);
    CHECK(kept.page->asks_for_all == 0);
    CHECK(toward(later, there) == 0);
    CHECK(kept.page->asks_for_all == 1);
    CHECK(punching_from(later.local().port()) == 0);
    REQUIRE(::listen(later.fd(), 4) == 0);
    CHECK(kept.open(later) == 0);
    CHECK(punching_from(later.local().port()) == 1);

    // A UDP socket without a port gets one, as by its first datagram.
    Socket datagrams(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    CHECK(toward(datagrams, there) == 0);
    CHECK(datagrams.local().port() != 0);
    // Connected: to whom is known.
    Socket client(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    REQUIRE(::connect(client.fd(), there.data(), there.length()) == 0);
    CHECK(toward(client, {}) == EINVAL); // from the loopback address
}

TEST_CASE("keeper: it ends with the server's processes, and lives as long as one of them") {
    CHECK(harness::in_child([]() -> std::string {
              DeafPeer peer;
              int ends[2];
              EXPECT_IN_CHILD(::pipe(ends) == 0);
              Socket listener = any_listener();
              // The server, whose child goes on.
              const pid_t server = ::fork();
              if (server == 0) {
                  Kept kept({peer.variable(), hops});
                  if (kept.open(listener) != 0)
                      ::_exit(1);
                  const pid_t child = ::fork();
                  if (child == 0) {
                      ::pause();
                      ::_exit(0);
                  }
                  synergy_request here = kept.request(SYNERGY_HERE);
                  here.process = child;
                  const Socket socket = connected(kept.page->keeper);
                  if (!send_to(socket, &here, sizeof here, {}))
                      ::_exit(2);
                  const std::array<pid_t, 2> pids{kept.process, child};
                  if (::write(ends[1], pids.data(), sizeof pids) != sizeof pids)
                      ::_exit(3);
                  ::_exit(0);
              }
              int status = -1;
              EXPECT_IN_CHILD(::waitpid(server, &status, 0) == server && status == 0);
              std::array<pid_t, 2> pids{};
              EXPECT_IN_CHILD(::read(ends[0], pids.data(), sizeof pids) == sizeof pids);
              const auto [keeper, child] = pids;
              ::usleep(200000);
              EXPECT_IN_CHILD(::kill(keeper, 0) == 0);
              EXPECT_IN_CHILD(punching_from(listener.local().port()) == 1);
              ::kill(child, SIGKILL);
              EXPECT_IN_CHILD(harness::wait_until(
                  [&] { return punching_from(listener.local().port()) == 0; }, milliseconds(500)));
              // (A zombie where nobody reaps it.)
              EXPECT_IN_CHILD(harness::wait_until(
                  [&, keeper = keeper] {
                      std::ifstream text("/proc/" + std::to_string(keeper) + "/stat");
                      std::string word, name, state;
                      return !(text >> word >> name >> state) || state == "Z";
                  },
                  seconds(1)));
              return "";
          }) == "");
}

TEST_CASE("keeper: one whose starter has ended before it could answer ends too") {
    std::array<int, 2> told{};
    REQUIRE(::pipe2(told.data(), O_CLOEXEC) == 0);
    const pid_t starter = ::fork();
    if (starter == 0) {
        int ends[2];
        ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends);
        const pid_t keeper = ::fork();
        if (keeper == 0) {
            ::usleep(100000);
            ::dup2(ends[1], 100);
            ::dup2(100, SYNERGY_START_FD);
            ::close_range(SYNERGY_START_FD + 1, ~0U, 0);
            std::string peers = "SYNERGY_PEERS=[2001:db8::5]:5555",
                        config = "SYNERGY_CONFIG=/dev/null";
            char *variables[] = {peers.data(), config.data(), nullptr};
            char name[] = "synergy-keeper";
            char *arguments[] = {name, nullptr};
            ::execve(SYNERGY_KEEPER, arguments, variables);
            ::_exit(127);
        }
        ::_exit(::write(told[1], &keeper, sizeof keeper) == sizeof keeper ? 0 : 1);
    }
    REQUIRE(::waitpid(starter, nullptr, 0) == starter);
    pid_t keeper = -1;
    REQUIRE(::read(told[0], &keeper, sizeof keeper) == sizeof keeper);
    const Socket pidfd(static_cast<int>(::syscall(SYS_pidfd_open, keeper, 0)));
    CHECK((!pidfd || harness::is_readable(pidfd.fd(), seconds(5))));
    if (pidfd)
        ::kill(keeper, SIGKILL);
    ::close(told[0]);
    ::close(told[1]);
}

TEST_CASE("keeper: it ends with the last socket, and says so in the page") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    // Not before there was any.
    CHECK_FALSE(kept.ends_within(milliseconds(3300)));
    Socket listener = any_listener(), second = any_listener();
    REQUIRE(kept.open(listener) == 0);
    REQUIRE(kept.open(second) == 0);
    const std::uint64_t cookie = cookie_of(listener.fd()), other = cookie_of(second.fd());
    listener.reset();
    CHECK(kept.closed(cookie) == 0);
    CHECK_FALSE(kept.ends_within(milliseconds(3300)));
    second.reset();
    CHECK(kept.closed(other) == 0);
    // One that listens again finds it there.
    ::usleep(1000000);
    second = any_listener();
    CHECK(kept.open(second) == 0);
    CHECK_FALSE(kept.ends_within(milliseconds(3300)));
    const std::uint64_t last = cookie_of(second.fd());
    second.reset();
    CHECK(kept.closed(last) == 0);
    CHECK(kept.page->over == 0);
    CHECK(kept.ends_within(seconds(5)));
    CHECK(kept.page->over == 1);
    CHECK(WIFEXITED(kept.status));
    CHECK(WEXITSTATUS(kept.status) == 0);
}

TEST_CASE("keeper: nobody takes it over from a server that lives, or without the port") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    const Socket listener = any_listener(), other = any_listener();
    const std::uint16_t port = listener.local().port();
    REQUIRE(kept.open(listener) == 0);
    synergy_address by_port{};
    synergy_port_name(0, port, &by_port);
    synergy_request request = kept.request(SYNERGY_ADOPT);
    request.secret = {};
    CHECK_FALSE(Kept::ask(by_port, request).is_there);
    for (const Socket *shown : {&listener, &other}) {
        const Answered answered = Kept::ask(by_port, request, shown->fd());
        CHECK(answered.answer.result == EBUSY);
        CHECK_FALSE(answered.received);
    }
    CHECK(punching_from(port) == 1);
}

TEST_CASE("keeper: after SIGTERM it sees at once what is closed") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    Socket listener = any_listener();
    const std::uint16_t port = listener.local().port();
    REQUIRE(kept.open(listener) == 0);
    ::kill(kept.process, SIGTERM);
    ::usleep(50000);
    CHECK(punching_from(port) == 1);
    listener.reset();
    CHECK(harness::wait_until([&] { return punching_from(port) == 0; }, milliseconds(300)));
}

TEST_CASE("keeper: a section of the file that comes later counts for a listener that comes later") {
    DeafPeer peer;
    harness::Directory directory;
    const std::string file = directory.write("synergy.toml", "[[listen]]\nport = 1\n");
    Kept kept({"SYNERGY_CONFIG=" + file});
    REQUIRE(kept.page);
    Socket listener = any_listener();
    const std::uint16_t port = listener.local().port();
    CHECK(synergy_bit(kept.page->ports[0], port) == 0);
    CHECK(kept.open(listener) == ENOENT);
    ::usleep(200000);
    directory.write("synergy.toml", "[[listen]]\nport = " + std::to_string(port) +
                                        "\nhops = 3\npeers = ['" + peer.listener.local().text() +
                                        "']\n");
    CHECK(harness::wait_until([&] { return synergy_bit(kept.page->ports[0], port) == 1; },
                              seconds(2)));
    CHECK(synergy_bit(kept.page->ports[0], 1) == 0);
    CHECK(kept.open(listener) == 0);
    CHECK(punching_from(port) == 1);
}

TEST_CASE("keeper: one that is killed has its place taken, and one that is replaced has not") {
    DeafPeer peer;
    for (const bool is_replaced : {false, true}) {
        Kept kept({peer.variable(), hops});
        Socket listener = any_listener();
        REQUIRE(kept.open(listener) == 0);
        const auto has_standby = [&] {
            const std::string task = "/proc/" + std::to_string(kept.process) + "/task/";
            std::ifstream children(task + std::to_string(kept.process) + "/children");
            int child = 0;
            return static_cast<bool>(children >> child);
        };
        REQUIRE(harness::wait_until(has_standby, seconds(2)));
        if (is_replaced) // as by a server's call that was first
            __atomic_store_n(&kept.page->over, 1, __ATOMIC_RELEASE);
        REQUIRE(::kill(kept.process, SIGKILL) == 0);
        const auto is_taken_over = [&] {
            return !synergy_is_over(kept.page) && kept.page->keeper.process != kept.process;
        };
        CHECK(harness::wait_until(is_taken_over, milliseconds(500)) == !is_replaced);
        CHECK((kept.result_of(SYNERGY_MEET, listener) == 0) == !is_replaced);
    }
}

TEST_CASE("keeper: garbage is no request, and costs nothing") {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    Socket listener = any_listener();
    REQUIRE(kept.open(listener) == 0);
    const synergy_request good = kept.request(SYNERGY_MEET);
    std::vector<char> bytes(sizeof good + 100);
    std::memcpy(bytes.data(), &good, sizeof good);
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    Socket in(ends[0]), out(ends[1]);
    Socket memory(memfd_create("some", MFD_CLOEXEC));
    const auto answered = [&](const void *data, std::size_t size, const std::vector<int> &pass) {
        const Socket socket = connected(kept.page->keeper);
        REQUIRE(socket);
        send_to(socket, data, size, pass);
        return receive(socket).is_there;
    };
    const std::size_t descriptors = kept.descriptors_at_rest();
    for (std::size_t size = 0; size < bytes.size(); size++)
        for (int passed : {-1, listener.fd(), in.fd()})
            if (answered(bytes.data(), size, std::vector<int>(passed >= 0 ? 1 : 0, passed)) !=
                (size == sizeof good))
                FAIL_CHECK(size);
    // The control: as it should be.
    CHECK(answered(&good, sizeof good, {listener.fd()}));
    // Two descriptors, and as many as can be.
    CHECK_FALSE(answered(&good, sizeof good, {listener.fd(), listener.fd()}));
    CHECK_FALSE(answered(&good, sizeof good, std::vector<int>(253, in.fd())));
    for (std::uint32_t kind = 0; kind < 300; kind++)
        for (int passed : {in.fd(), memory.fd(), kept.start.fd(), peer.listener.fd()}) {
            synergy_request request = good;
            request.kind = kind < 20 ? kind : kind * 0x01010101U;
            request.cookie = kind * 0x9e3779b97f4a7c15U;
            request.fd = static_cast<int>(kind) - 100;
            request.process = -static_cast<int>(kind);
            std::memset(&request.peer, static_cast<int>(kind), sizeof request.peer);
            CHECK(answered(&request, sizeof request, {passed}) ==
                  (kind != SYNERGY_HERE && kind != SYNERGY_EXECUTED_WITHOUT &&
                   kind != SYNERGY_LISTENS));
            // Without the secret nobody is heard who has nothing to show.
            request.secret.bytes[15] ^= 1;
            CHECK(answered(&request, sizeof request, {passed}) ==
                  (kind == SYNERGY_FETCH || kind == SYNERGY_MEET || kind == SYNERGY_STATUS ||
                   kind == SYNERGY_BIND || kind == SYNERGY_GIVE_WAY || kind == SYNERGY_ADOPT ||
                   kind == SYNERGY_TAKE));
            request.secret = good.secret;
            request.version++;
            CHECK_FALSE(answered(&request, sizeof request, {passed}));
        }
    CHECK(kept.open(listener) == 0);
    CHECK(punching_from(listener.local().port()) == 1);
    CHECK(harness::wait_until([&] { return kept.descriptors() <= descriptors; }, seconds(1)));
}

namespace {

/// What a stranger does in a process of its own, which goes on until the value goes.
class Stranger {
  public:
    explicit Stranger(const std::function<bool()> &does) {
        int ends[2];
        REQUIRE(::pipe(ends) == 0);
        process_ = ::fork();
        if (process_ == 0) {
            constexpr uid_t nobody = 65534;
            const bool is_right = ::setgid(nobody) == 0 && ::setuid(nobody) == 0 && does();
            static_cast<void>(!::write(ends[1], is_right ? "1" : "0", 1));
            ::pause();
            ::_exit(0);
        }
        ::close(ends[1]);
        char byte = '0';
        is_done = ::read(ends[0], &byte, 1) == 1 && byte == '1';
        ::close(ends[0]);
    }
    ~Stranger() {
        ::kill(process_, SIGKILL);
        ::waitpid(process_, nullptr, 0);
    }
    Stranger(const Stranger &) = delete;
    Stranger &operator=(const Stranger &) = delete;

    bool is_done = false;

  private:
    pid_t process_ = -1;
};

/// A TCP socket that its last close() takes five seconds for.
Socket lingering_socket() {
    // The other end takes nothing, and stays open in this process.
    static std::vector<Socket> others;
    Socket listener = harness::listening_tcp(Endpoint::loopback(AF_INET, 0));
    Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const Endpoint to = listener.local();
    ::connect(socket.fd(), to.data(), to.length());
    others.emplace_back(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    const linger patience{.l_onoff = 1, .l_linger = 5};
    ::setsockopt(socket.fd(), SOL_SOCKET, SO_LINGER, &patience, sizeof patience);
    const std::vector<char> data(1 << 16);
    while (::send(socket.fd(), data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        ;
    return socket;
}

} // namespace

TEST_CASE("keeper: without a descriptor for what comes along it says so, and is there later") {
    const DeafPeer peer;
    const Kept kept({peer.variable(), hops});
    const Socket listener = any_listener();
    const auto leave_room = [&](rlim_t count) {
        std::set<rlim_t> taken;
        for (const auto &entry :
             std::filesystem::directory_iterator("/proc/" + std::to_string(kept.process) + "/fd"))
            taken.insert(std::stoul(entry.path().filename()));
        rlimit limit{};
        REQUIRE(::prlimit(kept.process, RLIMIT_NOFILE, nullptr, &limit) == 0);
        limit.rlim_cur = 0;
        for (; count > 0 || taken.contains(limit.rlim_cur); limit.rlim_cur++)
            if (!taken.contains(limit.rlim_cur))
                count--;
        REQUIRE(::prlimit(kept.process, RLIMIT_NOFILE, &limit, nullptr) == 0);
    };
    leave_room(1); // for who asks
    CHECK(kept.open(listener) == EMFILE);
    // A stranger learns nothing.
    const Socket stranger = connected(kept.page->keeper);
    synergy_request request{};
    request.version = SYNERGY_WIRE_VERSION;
    request.kind = SYNERGY_MEET;
    REQUIRE(send_to(stranger, &request, sizeof request, {listener.fd()}));
    CHECK_FALSE(receive(stranger).is_there);
    leave_room(100);
    CHECK(kept.open(listener) == 0);
    CHECK(punching_from(listener.local().port()) == 1);
}

TEST_CASE("keeper: what can be done without leaves the descriptors that bells need") {
    constexpr rlim_t most = 64;
    DeafPeer peer;
    const Kept kept({peer.variable(), hops});
    const rlimit limit{.rlim_cur = most, .rlim_max = most};
    REQUIRE(::prlimit(kept.process, RLIMIT_NOFILE, &limit, nullptr) == 0);
    std::vector<Socket> listeners;
    std::vector<pollfd> all;
    for (rlim_t i = 0; i < most; i++) { // more than there is room for, with a name or two each
        listeners.push_back(any_listener());
        static_cast<void>(kept.open(listeners.back()));
        all.push_back({.fd = listeners.back().fd(), .events = POLLIN, .revents = 0});
    }
    // The peer takes one of those that have punched, and its bell rings.
    const Socket taken(::accept(peer.listener.fd(), nullptr, nullptr));
    CHECK(::poll(all.data(), all.size(), 5000) > 0);
}

TEST_CASE("keeper: strangers can neither take, delay nor use up anything" *
          doctest::skip(geteuid() != 0)) {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    Socket listener = any_listener();
    REQUIRE(kept.open(listener) == 0);
    const synergy_address address = kept.page->keeper;
    const std::size_t descriptors = kept.descriptors_at_rest();
    const auto is_quick = [&] {
        const Time before = Clock::now();
        const bool is_right = kept.result_of(SYNERGY_MEET, listener) == 0;
        return is_right && Clock::now() - before < milliseconds(200);
    };
    std::vector<Socket> silent;
    const Stranger idle([&] {
        rlimit more{.rlim_cur = 2000, .rlim_max = 2000};
        setrlimit(RLIMIT_NOFILE, &more);
        for (int i = 0; i < 1500; i++) {
            silent.push_back(connected(address));
            if (!silent.back())
                return false;
        }
        return true;
    });
    CHECK(idle.is_done);
    CHECK(is_quick());
    CHECK(harness::wait_until([&] { return kept.descriptors() <= descriptors + 65; }, seconds(1)));
    CHECK(harness::wait_until([&] { return kept.descriptors() <= descriptors; }, seconds(4)));

    const auto sends_lingering = [&](synergy_kind kind, int count) {
        const Socket socket = connected(address);
        synergy_request request{};
        request.version = SYNERGY_WIRE_VERSION;
        request.kind = kind;
        std::vector<Socket> sent;
        std::vector<int> numbers;
        for (int i = 0; i < count; i++) {
            sent.push_back(lingering_socket());
            numbers.push_back(sent.back().fd());
        }
        const bool is_sent = send_to(socket, &request, sizeof request, numbers);
        // A close() that is not the last takes no time; where the keeper has been quicker it is the
        // last, and lingers in a thread of its own.
        auto *closing = new std::vector<Socket>(std::move(sent));
        auto *closed = new std::atomic<bool>(false);
        std::thread([closing, closed] {
            closing->clear();
            *closed = true;
        }).detach();
        harness::wait_until([closed] { return closed->load(); }, milliseconds(500));
        return is_sent;
    };
    const Stranger lingering([&] {
        return sends_lingering(SYNERGY_FETCH, 1) && sends_lingering(SYNERGY_MEET, 1) &&
               sends_lingering(SYNERGY_OPEN, 1) && sends_lingering(SYNERGY_FETCH, 20);
    });
    CHECK(lingering.is_done);
    for (int i = 0; i < 50; i++) {
        CHECK(is_quick());
        ::usleep(2000);
    }
    CHECK(harness::wait_until([&] { return kept.descriptors() <= descriptors; }, seconds(1)));
    // The control: a socket that lingers.
    const Stranger control([] {
        Socket socket = lingering_socket();
        ::alarm(1);
        ::signal(SIGALRM, [](int) { ::_exit(0); });
        socket.reset();
        return true;
    });
    CHECK_FALSE(control.is_done);
    CHECK(punching_from(listener.local().port()) == 1);
}

TEST_CASE("keeper: a name that a stranger has taken is done without" *
          doctest::skip(geteuid() != 0)) {
    DeafPeer peer;
    Kept kept({peer.variable(), hops});
    Socket listener = any_listener();
    const auto squat = [&](bool listens) {
        const Socket taken(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
        synergy_address wanted{};
        synergy_name_of(cookie_of(listener.fd()), &wanted);
        sockaddr_un name{};
        name.sun_family = AF_UNIX;
        std::memcpy(name.sun_path + 1, wanted.name, wanted.length);
        const auto length =
            static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + wanted.length);
        static_cast<void>(fcntl(taken.fd(), F_DUPFD, 0)); // it stays
        return ::bind(taken.fd(), reinterpret_cast<sockaddr *>(&name), length) == 0 &&
               (!listens || ::listen(taken.fd(), 1) == 0);
    };
    for (bool listens : {true, false}) {
        CAPTURE(listens);
        const Stranger squatter([&] { return squat(listens); });
        REQUIRE(squatter.is_done);
        CHECK(kept.open(listener) == 0);
        CHECK(punching_from(listener.local().port()) == 1);
        CHECK(kept.log().find("another user has the name") != std::string::npos);
        listener = any_listener();
    }
}

TEST_CASE("keeper: a listener that no bell can reach is not punched for" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              EXPECT_IN_CHILD(::unshare(CLONE_NEWNET) == 0);
              EXPECT_IN_CHILD(std::system("ip link set lo up && ip link add va type veth peer name "
                                          "vb && ip link set va up && ip link set vb up && "
                                          "ip addr add 192.0.2.1/24 dev va && "
                                          "ip route add default via 192.0.2.2") == 0);
              Kept kept({"SYNERGY_PEERS=198.51.100.5:5555", hops});
              Socket bound(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
              bound.set(SOL_SOCKET, SO_REUSEPORT, 1);
              constexpr std::string_view device = "va";
              EXPECT_IN_CHILD(::setsockopt(bound.fd(), SOL_SOCKET, SO_BINDTODEVICE, device.data(),
                                           device.size()) == 0);
              const Endpoint any = Endpoint::wildcard(AF_INET, 0);
              EXPECT_IN_CHILD(::bind(bound.fd(), any.data(), any.length()) == 0);
              EXPECT_IN_CHILD(::listen(bound.fd(), 4) == 0);
              EXPECT_IN_CHILD(kept.open(bound) == ENOENT);
              EXPECT_IN_CHILD(kept.log().find("nothing is punched: no connection of this host's") !=
                              std::string::npos);
              EXPECT_IN_CHILD(kept.open(any_listener()) == 0);
              return "";
          }) == "");
}

TEST_CASE("keeper: a socket of another network has another keeper" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              DeafPeer peer;
              Kept kept({peer.variable(), hops});
              Socket here = any_listener();
              EXPECT_IN_CHILD(kept.open(here) == 0);
              EXPECT_IN_CHILD(::unshare(CLONE_NEWNET) == 0);
              Socket there = any_listener();
              // (Abstract names are of a network, too: by the connection that is there.)
              synergy_request open = kept.request(SYNERGY_OPEN);
              EXPECT_IN_CHILD(send_to(kept.start, &open, sizeof open, {there.fd()}));
              EXPECT_IN_CHILD(receive(kept.start).answer.result == EXDEV);
              EXPECT_IN_CHILD(send_to(kept.start, &open, sizeof open, {here.fd()}));
              EXPECT_IN_CHILD(receive(kept.start).answer.result == 0);
              return "";
          }) == "");
}
