// What a server that was taken over, or a stranger, may say to a keeper and do to the page that
// they share: each input is a row of such acts. The keeper is the real one, in this process; it
// must answer what there is to answer, keep no descriptor, and never wait.
#include "base/log.h"
#include "keeper/keeper.h"
#include "server/server_socket.h"
#include "settings/load_settings.h"
#include "wire.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <list>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/un.h>
#include <unistd.h>
#include <vector>

using namespace synergy;

namespace {

[[noreturn]] void fail(const char *what) {
    std::fprintf(stderr, "protocol: %s\n", what);
    std::abort();
}

/// The bytes of an input, zeros after its end.
class Input {
  public:
    Input(const std::uint8_t *data, std::size_t size) : data_(data), size_(size) {}

    [[nodiscard]] bool is_empty() const { return size_ == 0; }
    std::uint8_t byte() {
        if (size_ == 0)
            return 0;
        size_--;
        return *data_++;
    }
    unsigned below(unsigned bound) { return byte() % bound; }
    std::uint32_t word() {
        std::uint32_t word = 0;
        for (int i = 0; i < 4; i++)
            word = word << 8 | byte();
        return word;
    }
    void fill(void *to, std::size_t size) {
        const std::size_t count = std::min(size, size_);
        std::memcpy(to, data_, count);
        data_ += count;
        size_ -= count;
    }

  private:
    const std::uint8_t *data_;
    std::size_t size_;
};

std::size_t open_descriptors() {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

/// How long this thread has been kept from running, on a busy machine: proc(5), "schedstat".
Duration kept_waiting() {
    std::ifstream file("/proc/thread-self/schedstat");
    std::int64_t run = 0, waited = 0;
    file >> run >> waited;
    return std::chrono::nanoseconds(waited);
}

/// A port of this host that leaves SYNs without an answer, as a punch that dies on its way.
const Endpoint &deaf_peer() {
    static const Endpoint peer = [] {
        static Socket listener(::socket(AF_INET, SOCK_STREAM, 0));
        static Socket filling(::socket(AF_INET, SOCK_STREAM, 0));
        const Endpoint any = Endpoint::loopback(AF_INET, 0);
        if (::bind(listener.fd(), any.data(), any.length()) != 0 || ::listen(listener.fd(), 0) != 0)
            fail("no listener");
        const Endpoint at = listener.local();
        if (::connect(filling.fd(), at.data(), at.length()) != 0)
            fail("no connection");
        return at;
    }();
    return peer;
}

Socket bound(int family, int type, bool listens, int protocol = 0) {
    Socket socket(::socket(family, type | SOCK_CLOEXEC, protocol));
    const Endpoint any = Endpoint::loopback(family, 0);
    socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
    if (socket && ::bind(socket.fd(), any.data(), any.length()) == 0 && listens)
        ::listen(socket.fd(), 4);
    return socket;
}

/// Of every kind there is.
Socket something(unsigned kind) {
    int ends[2];
    switch (kind) {
    case 0:
        return bound(AF_INET, SOCK_STREAM, true);
    case 1:
        return bound(AF_INET6, SOCK_STREAM, true);
    case 2:
        return bound(AF_INET, SOCK_STREAM, false);
    case 3:
        return bound(AF_INET, SOCK_DGRAM, false);
    case 4:
        return bound(AF_INET6, SOCK_DGRAM, false);
    case 5: {
        Socket connected = bound(AF_INET, SOCK_DGRAM, false);
        ::connect(connected.fd(), deaf_peer().data(), deaf_peer().length());
        return connected;
    }
    case 6: {
        Socket calling = bound(AF_INET, SOCK_STREAM, false);
        ::fcntl(calling.fd(), F_SETFL, O_NONBLOCK);
        ::connect(calling.fd(), deaf_peer().data(), deaf_peer().length());
        return calling;
    }
    case 7:
        return bound(AF_INET6, SOCK_STREAM, true, IPPROTO_SCTP);
    case 8:
        return bound(AF_INET6, SOCK_SEQPACKET, true, IPPROTO_SCTP);
    case 9:
        if (::pipe2(ends, O_CLOEXEC) != 0)
            return {};
        ::close(ends[1]);
        return Socket(ends[0]);
    case 10:
        if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
            return {};
        ::close(ends[1]);
        return Socket(ends[0]);
    case 11:
        return Socket(::memfd_create("some", MFD_CLOEXEC));
    case 12:
        return Socket(::epoll_create1(EPOLL_CLOEXEC));
    case 13:
        return Socket(::eventfd(0, EFD_CLOEXEC));
    case 14:
        return Socket(::open("/", O_PATH | O_CLOEXEC));
    case 15:
        return Socket(::inotify_init1(IN_CLOEXEC));
    case 16: {
        // Whose close() waits.
        Socket lingering(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const linger long_time{.l_onoff = 1, .l_linger = 30};
        ::setsockopt(lingering.fd(), SOL_SOCKET, SO_LINGER, &long_time, sizeof long_time);
        return lingering;
    }
    case 17:
        return Socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
    default:
        return Socket(::open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
    }
}
constexpr unsigned kinds = 19;

class Game {
  public:
    explicit Game(Input &input)
        : input_(input), keeper_(kept_, settings(), {}, {}), page_(map_page()) {}
    ~Game() {
        callers_.clear();
        things_.clear();
        for (int i = 0; i < 3; i++)
            keeper_.work(Duration::zero());
        ::munmap(page_, sizeof *page_);
    }
    Game(const Game &) = delete;
    Game &operator=(const Game &) = delete;

    void act() {
        constexpr std::size_t most = 12;
        switch (input_.below(8)) {
        case 0:
            if (things_.size() < most)
                things_.push_back(something(input_.below(kinds)));
            break;
        case 1:
            if (!things_.empty())
                things_.erase(std::next(things_.begin(),
                                        input_.below(static_cast<unsigned>(things_.size()))));
            break;
        case 2:
            if (!callers_.empty())
                callers_.erase(callers_.begin());
            break;
        case 3:
            damage_page();
            break;
        case 4:
            if (callers_.size() < most)
                callers_.push_back(connected());
            break;
        default:
            ask();
        }
        keeper_.work(Duration::zero());
    }

  private:
    static Settings settings() {
        static const std::string peer = deaf_peer().text();
        return load_settings([](const char *name) -> const char * {
            return std::strcmp(name, "SYNERGY_PEERS") == 0    ? peer.c_str()
                   : std::strcmp(name, "SYNERGY_HOPS") == 0   ? "3"
                   : std::strcmp(name, "SYNERGY_CONFIG") == 0 ? "/dev/null"
                                                              : nullptr;
        });
    }

    synergy_page *map_page() {
        int ends[2];
        if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
            fail("no sockets");
        const Socket here(ends[0]);
        // As the shim gets it. What a keeper does later is not waited for here.
        keeper_.answer_start(Socket(ends[1]), ::getpid(), false, -1);
        Socket memory;
        synergy_answer answer{};
        receive(here, answer, memory);
        void *page = ::mmap(nullptr, sizeof(synergy_page), PROT_READ | PROT_WRITE, MAP_SHARED,
                            memory.fd(), 0);
        if (page == MAP_FAILED)
            fail("no page");
        secret_ = static_cast<synergy_page *>(page)->secret;
        address_ = static_cast<synergy_page *>(page)->keeper;
        return static_cast<synergy_page *>(page);
    }

    static bool receive(const Socket &from, synergy_answer &answer, Socket &received) {
        iovec data{.iov_base = &answer, .iov_len = sizeof answer};
        alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
        msghdr header{};
        header.msg_iov = &data;
        header.msg_iovlen = 1;
        header.msg_control = control.data();
        header.msg_controllen = control.size();
        if (::recvmsg(from.fd(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != sizeof answer)
            return false;
        if (const cmsghdr *extra = CMSG_FIRSTHDR(&header); extra != nullptr) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(extra), sizeof fd);
            received = Socket(fd);
        }
        return true;
    }

    [[nodiscard]] Socket connected() const {
        Socket socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        sockaddr_un name{};
        name.sun_family = AF_UNIX;
        std::memcpy(name.sun_path + 1, address_.name, address_.length);
        const auto length =
            static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + address_.length);
        if (::connect(socket.fd(), reinterpret_cast<sockaddr *>(&name), length) != 0)
            socket.reset();
        return socket;
    }

    void damage_page() {
        auto *bytes = reinterpret_cast<std::uint8_t *>(page_);
        const std::size_t at = input_.word() % sizeof *page_;
        input_.fill(bytes + at, std::min<std::size_t>(input_.below(64), sizeof *page_ - at));
    }

    synergy_request request() {
        synergy_request request{};
        request.version = SYNERGY_WIRE_VERSION;
        request.kind = input_.below(SYNERGY_MAKE_WAY + 2);
        request.hop_limit = static_cast<std::int8_t>(input_.byte());
        request.process = ::getpid();
        request.secret = secret_;
        if (!things_.empty())
            request.cookie = cookie_of(chosen().fd());
        // Mostly right, so that most of it is looked at.
        switch (input_.below(6)) {
        case 0:
            input_.fill(&request, sizeof request);
            break;
        case 1:
            input_.fill(&request.cookie, sizeof request - offsetof(synergy_request, cookie));
            break;
        case 2:
            request.secret.bytes[0] ^= input_.byte();
            break;
        default:
            request.peer = wire_endpoint(deaf_peer());
        }
        if (request.kind == SYNERGY_KEY && input_.below(4) != 0) {
            request.key_option = TCP_MD5SIG;
            request.key_length =
                input_.below(2) != 0 ? unsigned{SYNERGY_KEY_SIZE} : input_.word() % 1024;
            input_.fill(request.key, input_.below(16));
        }
        if (request.kind == SYNERGY_HERE)
            request.process = ::getpid(); // (pids of this machine's are no news)
        return request;
    }

    const Socket &chosen() {
        return *std::next(things_.begin(), input_.below(static_cast<unsigned>(things_.size())));
    }

    void ask() {
        const synergy_request request = this->request();
        // Who has asked before may have more to say.
        const bool is_known = input_.below(8) == 0 && !callers_.empty();
        Socket caller;
        if (is_known) {
            caller = std::move(callers_.front());
            callers_.pop_front();
        } else {
            caller = connected();
        }
        if (!caller)
            return;
        std::array<std::uint8_t, 2 * sizeof request> bytes{};
        std::memcpy(bytes.data(), &request, sizeof request);
        std::size_t size = sizeof request;
        if (input_.below(8) == 0)
            size = input_.byte() % bytes.size();
        constexpr unsigned most = 50;
        const unsigned count = things_.empty() ? 0 : input_.below(4) == 0 ? input_.below(most) : 1;
        std::vector<int> passed;
        for (unsigned i = 0; i < count; i++)
            if (const int fd = chosen().fd(); fd >= 0)
                passed.push_back(fd);
        iovec data{.iov_base = bytes.data(), .iov_len = size};
        std::vector<char> control(CMSG_SPACE(sizeof(int) * passed.size()));
        msghdr header{};
        header.msg_iov = &data;
        header.msg_iovlen = 1;
        if (!passed.empty()) {
            header.msg_control = control.data();
            header.msg_controllen = control.size();
            cmsghdr *extra = CMSG_FIRSTHDR(&header);
            extra->cmsg_level = SOL_SOCKET;
            extra->cmsg_type = SCM_RIGHTS;
            extra->cmsg_len = CMSG_LEN(sizeof(int) * passed.size());
            std::memcpy(CMSG_DATA(extra), passed.data(), sizeof(int) * passed.size());
        }
        if (::sendmsg(caller.fd(), &header, MSG_NOSIGNAL) < 0)
            return;
        keeper_.work(Duration::zero());
        synergy_answer answer{};
        Socket received;
        const bool is_answered = receive(caller, answer, received);
        const bool is_right = size == sizeof request && request.version == SYNERGY_WIRE_VERSION &&
                              passed.size() <= 1 && !is_damaged() &&
                              std::memcmp(&request.secret, &secret_, sizeof secret_) == 0;
        const bool wants_answer = request.kind != SYNERGY_HERE &&
                                  request.kind != SYNERGY_EXECUTED_WITHOUT &&
                                  request.kind != SYNERGY_LISTENS;
        if (is_right && wants_answer && !is_answered && !is_known)
            fail("a good request without an answer");
        if (input_.below(8) == 0 && callers_.size() < most)
            callers_.push_back(std::move(caller));
    }

    [[nodiscard]] bool is_damaged() const {
        return std::memcmp(&page_->secret, &secret_, sizeof secret_) != 0;
    }

    Input &input_;
    Page kept_;
    Keeper keeper_;
    synergy_secret secret_{};
    synergy_address address_{};
    synergy_page *page_;
    std::list<Socket> things_;
    std::list<Socket> callers_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    constexpr int acts = 40;
    static const bool is_ready = [] {
        log::configure({.level = LogLevel::off});
        return !deaf_peer().empty();
    }();
    Input input(data, size);
    const std::size_t before = open_descriptors();
    const Time begin = Clock::now();
    const Duration kept = kept_waiting();
    {
        Game game(input);
        for (int i = 0; is_ready && i < acts && !input.is_empty(); i++)
            game.act();
    }
    if (open_descriptors() != before)
        fail("a descriptor is kept");
    if (Clock::now() - begin - (kept_waiting() - kept) > std::chrono::seconds(2))
        fail("it waited");
    return 0;
}
