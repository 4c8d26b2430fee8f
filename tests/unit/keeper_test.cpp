// The keeper as it is: the program is started, and asked over its socket, as the shim does it.
#include "keeper_bench.h"
#include "server/server_socket.h"
#include "server/traffic.h"

#include <doctest/doctest.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace synergy;
using namespace harness;

TEST_CASE("keeper: a file without a single setting is no settings") {
    const Directory directory;
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

TEST_CASE("keeper: the first punch has left when OPEN is answered, and the connection comes out") {
    const Socket peer = listening_tcp(Endpoint::loopback(AF_INET, 0));
    Kept kept({"SYNERGY_PEERS=" + peer.local().text(), hops});
    Socket listener = any_listener();
    const Answered opened =
        kept.ask(kept.request(SYNERGY_OPEN, cookie_of(listener.fd())), listener.fd());
    CHECK(opened.answer.result == 0);
    CHECK(opened.answer.mark == SYNERGY_LISTENER);
    REQUIRE(is_readable(peer.fd(), milliseconds(0)));
    Socket theirs(::accept(peer.fd(), nullptr, nullptr));
    CHECK(theirs.remote().port() == listener.local().port());

    // A bell, and not the peer.
    REQUIRE(is_readable(listener.fd(), seconds(5)));
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
    const Socket peer = listening_tcp(Endpoint::loopback(AF_INET, 0));
    Kept kept({"SYNERGY_PEERS=" + peer.local().text(), hops});
    Socket listener = any_listener();
    REQUIRE(kept.open(listener) == 0);
    const Socket theirs(::accept(peer.fd(), nullptr, nullptr));
    REQUIRE(is_readable(listener.fd(), seconds(5)));
    Socket bell(::accept(listener.fd(), nullptr, nullptr));
    synergy_request fetch = kept.request(SYNERGY_FETCH);
    {
        const Socket late = connected(kept.page->keeper);
        REQUIRE(::shutdown(late.fd(), SHUT_RD) == 0);
        REQUIRE(send_to(late, &fetch, sizeof fetch, {bell.fd()}));
        REQUIRE(is_readable(listener.fd(), seconds(5)));
    }
    CHECK(kept.page->ringing == 1);
    bell = Socket(::accept(listener.fd(), nullptr, nullptr));
    Answered fetched = kept.ask(fetch, bell.fd());
    CHECK(fetched.answer.result == 0);
    REQUIRE(fetched.received);
    CHECK(fetched.received.remote() == peer.local());
    CHECK(::send(theirs.fd(), "x", 1, MSG_NOSIGNAL) == 1);
    CHECK(is_readable(fetched.received.fd(), seconds(1)));
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
    CHECK(wait_until([&] { return kept.descriptors() <= descriptors; }, seconds(1)));
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
        CHECK(wait_until([&] { return punching_from(socket.local().port()) == 1; }));
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
    CHECK(wait_until([&] { return punching_from(stopped.local().port()) == 1; }));
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
    const Socket peer = listening_tcp(Endpoint::loopback(AF_INET, 0));
    DeafPeer other;
    Kept kept({"SYNERGY_PEERS=" + peer.local().text() + "," + other.listener.local().text(), hops});
    Socket listener = any_listener();
    REQUIRE(kept.open(listener) == 0);
    CHECK(punching_from(listener.local().port()) == 1);
    REQUIRE(is_readable(peer.fd(), seconds(1)));
    const Socket theirs(::accept(peer.fd(), nullptr, nullptr));
    std::vector<Socket> kept_bells; // by a program that knows nothing of bells
    CHECK(wait_until(
        [&] {
            if (is_readable(listener.fd(), milliseconds(0)))
                kept_bells.emplace_back(::accept(listener.fd(), nullptr, nullptr));
            return is_readable(theirs.fd(), milliseconds(0));
        },
        milliseconds(2500)));
    char byte = 0;
    CHECK(::recv(theirs.fd(), &byte, 1, MSG_DONTWAIT) < 0);
    CHECK(errno == ECONNRESET);
    // Of the other peer the socket stands for as long as its hole does, to meet and refuse it. (A
    // keeper that gets no processor in time loses it.)
    std::this_thread::sleep_for(milliseconds(1500)); // a peer's hole opens again after one second
    CHECK(punching_from(listener.local().port()) <= 1);
    CHECK_FALSE(is_readable(peer.fd(), milliseconds(0)));
    const std::string log = kept.log();
    const auto first = log.find("nothing is punched any more");
    CHECK(first != std::string::npos);
    CHECK(log.find("nothing is punched any more", first + 1) == std::string::npos);
    CHECK(kept.open(listener) == 0);
    CHECK(punching_from(listener.local().port()) <= 1);
    CHECK_FALSE(is_readable(peer.fd(), milliseconds(0)));
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
    CHECK(wait_until([&] { return !connected(name); }, seconds(1)));
}

TEST_CASE("keeper: a socket has one keeper") {
    DeafPeer peer;
    Kept first({peer.variable(), hops}), second({peer.variable(), hops});
    Socket listener = any_listener();
    CHECK(first.open(listener) == 0);
    CHECK(second.open(listener) == EEXIST);
    CHECK(second.result_of(SYNERGY_MEET, listener) == ENOENT);
    CHECK(punching_from(listener.local().port()) == 1);
    ::kill(-first.process, SIGKILL); // with its standby
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
    CHECK(toward(listening_tcp(Endpoint::loopback(AF_INET, 0)), there) == EINVAL);
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

TEST_CASE("keeper: a section of the file that comes later counts for a listener that comes later") {
    DeafPeer peer;
    Directory directory;
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
    CHECK(wait_until([&] { return synergy_bit(kept.page->ports[0], port) == 1; }, seconds(2)));
    CHECK(synergy_bit(kept.page->ports[0], 1) == 0);
    CHECK(kept.open(listener) == 0);
    CHECK(punching_from(port) == 1);
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
    // The peer takes one of those that have punched, and its bell rings. (It is met by a SYN that
    // is sent again: after 1, 3 and 7 s, and on a busy machine the first three have gone by now.)
    const Socket taken(::accept(peer.listener.fd(), nullptr, nullptr));
    CHECK(::poll(all.data(), all.size(), 10000) > 0);
}

TEST_CASE("keeper: a listener that no bell can reach is not punched for" *
          doctest::skip(geteuid() != 0)) {
    CHECK(in_child([]() -> std::string {
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
    CHECK(in_child([]() -> std::string {
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
