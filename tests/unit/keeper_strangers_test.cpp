// What the keeper takes of strangers, and of whoever asks what it does not know.
#include "keeper_bench.h"

#include <doctest/doctest.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace synergy;
using namespace harness;

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
    CHECK(wait_until([&] { return kept.descriptors() <= descriptors; }, seconds(1)));
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
    Socket listener = listening_tcp(Endpoint::loopback(AF_INET, 0));
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
    CHECK(wait_until([&] { return kept.descriptors() <= descriptors + 65; }, seconds(1)));
    CHECK(wait_until([&] { return kept.descriptors() <= descriptors; }, seconds(4)));

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
        wait_until([closed] { return closed->load(); }, milliseconds(500));
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
    CHECK(wait_until([&] { return kept.descriptors() <= descriptors; }, seconds(1)));
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
