#include "tools/trial.h"

#include "punch/sctp_punch.h"
#include "punch/tcp_punch.h"
#include "punch/udp_punch.h"

#include <fmt/format.h>

#include <array>
#include <list>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <system_error>

namespace synergy {

namespace {

/// What the caller says, and wants to hear again.
constexpr std::string_view words = "synergy test\n";
constexpr Duration between_datagrams = std::chrono::milliseconds(300);
constexpr Duration between_calls = std::chrono::milliseconds(300);
constexpr int backlog = 4;

Socket bound(const TrialWay &way, Transport transport) {
    const bool is_udp = transport == Transport::udp;
    Socket socket = Socket::open(way.source.family(), is_udp ? SOCK_DGRAM : SOCK_STREAM,
                                 protocol_of(transport));
    // A test that is run twice meets what the first one left in TIME_WAIT; and a punching socket is
    // to stand beside a listener.
    if (socket && !is_udp) {
        socket.set(SOL_SOCKET, SO_REUSEADDR, 1);
        socket.set(SOL_SOCKET, SO_REUSEPORT, 1);
    }
    if (!socket || ::bind(socket.fd(), way.source.data(), way.source.length()) != 0)
        throw std::system_error(errno, std::generic_category(),
                                std::string(name(transport)) + " " + way.source.text());
    return socket;
}

Outcome outcome_by(int error) {
    switch (error) {
    case ECONNREFUSED:
        return Outcome::refused;
    case EACCES:
    case EHOSTUNREACH:
        return Outcome::prohibited;
    case ETIMEDOUT:
        return Outcome::timed_out;
    default:
        return Outcome::failed;
    }
}

/// A server with one hole, which lives as long as the trial.
class PunchingCallee : public Callee, protected HoleOwner {
  protected:
    PunchingCallee(const PunchMeans &means, const TrialWay &way)
        : context_{means, *this}, dying_hop_(way.dying_hop) {}

    bool check_alive(const ServerSocket &) override { return true; }
    std::uint64_t control_chunks(const Endpoint &, const Endpoint &) override { return 0; }
    std::shared_ptr<HoleBegin> begin_of(const Hole &, Duration lifetime) override {
        return std::make_shared<HoleBegin>(lifetime);
    }
    void deliver(Socket, const Endpoint &, const ServerSocket &) override {}
    std::optional<Hop> find_dying_hop(const Hole &, int) override { return dying_hop_; }
    void proved(const Hole &, int) override {}
    void refused(const Hole &, int, const IcmpError &) override {}

    const PunchContext context_;

  private:
    const std::optional<Hop> dying_hop_;
};

class DatagramCallee final : public PunchingCallee {
  public:
    DatagramCallee(const PunchMeans &means, const TrialWay &way)
        : PunchingCallee(means, way), scheduler_(means.scheduler),
          socket_(bound(way, Transport::udp)), peer_(way.peer) {
        server_.transport = Transport::udp;
        server_.local = way.source;
        punch_ = std::make_unique<UdpPunch>(
            context_, Hole{.server = server_, .peer = peer_, .hops = HopRange::only(way.hop_limit)},
            socket_.fd(), aside_);
        scheduler_.watch(socket_.fd(), EPOLLIN, [this](std::uint32_t) { answer(); });
    }
    ~DatagramCallee() override { scheduler_.unwatch(socket_.fd()); }
    DatagramCallee(const DatagramCallee &) = delete;
    DatagramCallee &operator=(const DatagramCallee &) = delete;

    int punch() override { return punch_->open(); }

  private:
    void answer() {
        std::array<char, words.size()> said{};
        sockaddr_storage from{};
        socklen_t length = sizeof from;
        auto *sender = reinterpret_cast<sockaddr *>(&from);
        const ssize_t size = ::recvfrom(socket_.fd(), said.data(), said.size(), 0, sender, &length);
        if (size > 0 && Endpoint::from(sender, length) == peer_)
            ::sendto(socket_.fd(), said.data(), static_cast<std::size_t>(size), 0, sender, length);
    }

    Scheduler &scheduler_;
    Socket socket_;
    Endpoint peer_;
    ServerSocket server_;
    ErrorsAside aside_{scheduler_}; ///< (it asks for none)
    std::unique_ptr<Punch> punch_;
};

class StreamCallee final : public PunchingCallee {
  public:
    StreamCallee(const PunchMeans &means, const TrialKind &kind, const TrialWay &way)
        : PunchingCallee(means, way), scheduler_(means.scheduler),
          listener_(bound(way, kind.transport)) {
        if (::listen(listener_.fd(), backlog) != 0)
            throw std::system_error(errno, std::generic_category(), "listen");
        const auto described = describe(listener_.fd());
        if (!described)
            throw std::system_error(errno, std::generic_category(), name(kind.transport));
        server_ = *described;
        is_left_alone_ = kind.idle > std::chrono::seconds(0);
        HopRange hops = HopRange::only(way.hop_limit);
        if (is_left_alone_)
            hops.least = hop_limit_min;
        const Hole hole{.server = server_, .peer = way.peer, .hops = hops};
        if (kind.transport == Transport::tcp)
            punch_ = std::make_unique<TcpPunch>(context_, hole);
        else
            punch_ = std::make_unique<SctpPunch>(context_, hole);
        // Where there is no firewall, the peer may reach the listener before the punch has left.
        scheduler_.watch(listener_.fd(), EPOLLIN, [this](std::uint32_t) {
            serve(
                Socket(::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)));
        });
    }
    ~StreamCallee() override {
        scheduler_.unwatch(listener_.fd());
        for (const Socket &connection : connections_)
            scheduler_.unwatch(connection.fd());
    }
    StreamCallee(const StreamCallee &) = delete;
    StreamCallee &operator=(const StreamCallee &) = delete;

    /// The kernel repeats its SYN: where the hole is to be left alone, these are not to reach the
    /// firewall.
    int punch() override {
        const int error = punch_->open();
        if (is_left_alone_)
            static_cast<void>(punch_->adopt(HopRange::only(hop_limit_min)));
        return error;
    }

  private:
    void deliver(Socket connection, const Endpoint &, const ServerSocket &) override {
        serve(std::move(connection));
    }

    void serve(Socket connection) {
        if (!connection)
            return;
        connections_.push_back(std::move(connection));
        const int fd = connections_.back().fd();
        scheduler_.watch(fd, EPOLLIN, [this, fd](std::uint32_t) {
            std::array<char, words.size()> said{};
            const ssize_t size = ::recv(fd, said.data(), said.size(), 0);
            if (size > 0)
                ::send(fd, said.data(), static_cast<std::size_t>(size), MSG_NOSIGNAL);
            else
                scheduler_.unwatch(fd); // and closed with the rest
        });
    }

    Scheduler &scheduler_;
    Socket listener_;
    ServerSocket server_;
    std::unique_ptr<Punch> punch_;
    bool is_left_alone_ = false;
    std::list<Socket> connections_;
};

class DatagramCaller final : public Caller {
  public:
    DatagramCaller(Scheduler &scheduler, const TrialWay &way)
        : scheduler_(scheduler), socket_(bound(way, Transport::udp)), timer_(scheduler),
          end_(Clock::now() + call_patience) {
        if (::connect(socket_.fd(), way.peer.data(), way.peer.length()) != 0) {
            outcome_ = outcome_by(errno);
            return;
        }
        scheduler_.watch(socket_.fd(), EPOLLIN, [this](std::uint32_t) { hear(); });
        call();
    }
    ~DatagramCaller() override { scheduler_.unwatch(socket_.fd()); }
    DatagramCaller(const DatagramCaller &) = delete;
    DatagramCaller &operator=(const DatagramCaller &) = delete;

    [[nodiscard]] Outcome outcome() const override {
        if (outcome_ != Outcome::pending || Clock::now() < end_)
            return outcome_;
        return error_ != 0 ? outcome_by(error_) : Outcome::timed_out;
    }

  private:
    void call() {
        if (::send(socket_.fd(), words.data(), words.size(), MSG_NOSIGNAL) < 0)
            error_ = errno; // also one that came back for the datagram before
        if (outcome() == Outcome::pending)
            timer_.set(Clock::now() + between_datagrams, [this] { call(); });
    }

    void hear() {
        std::array<char, words.size()> said{};
        const ssize_t size = ::recv(socket_.fd(), said.data(), said.size(), 0);
        if (size < 0)
            error_ = errno;
        else if (std::string_view(said.data(), static_cast<std::size_t>(size)) == words)
            outcome_ = Outcome::passes;
    }

    Scheduler &scheduler_;
    Socket socket_;
    Timer timer_;
    Time end_;
    int error_ = 0; ///< the last that came back; one may still be let in afterwards
    Outcome outcome_ = Outcome::pending;
};

class StreamCaller final : public Caller {
  public:
    StreamCaller(Scheduler &scheduler, TrialKind kind, TrialWay way)
        : scheduler_(scheduler), kind_(kind), way_(std::move(way)), timer_(scheduler),
          end_(Clock::now() + call_patience) {
        call();
    }
    ~StreamCaller() override { hang_up(); }
    StreamCaller(const StreamCaller &) = delete;
    StreamCaller &operator=(const StreamCaller &) = delete;

    [[nodiscard]] Outcome outcome() const override {
        return outcome_ == Outcome::pending && Clock::now() >= end_ ? Outcome::timed_out : outcome_;
    }

  private:
    void call() {
        socket_ = bound(way_, kind_.transport);
        if (::connect(socket_.fd(), way_.peer.data(), way_.peer.length()) != 0 &&
            errno != EINPROGRESS)
            failed(errno);
        else
            scheduler_.watch(socket_.fd(), EPOLLOUT, [this](std::uint32_t) { connected(); });
    }

    void hang_up() {
        if (socket_)
            scheduler_.unwatch(socket_.fd());
        socket_.reset();
    }

    /// Where both call, the one may be there a moment before the other.
    void failed(int error) {
        hang_up();
        if (kind_.both_call && error == ECONNREFUSED && Clock::now() < end_)
            timer_.set(Clock::now() + between_calls, [this] { call(); });
        else
            outcome_ = outcome_by(error);
    }

    void connected() {
        scheduler_.unwatch(socket_.fd());
        if (const int error = socket_.get(SOL_SOCKET, SO_ERROR, EIO); error != 0) {
            failed(error);
            return;
        }
        ::send(socket_.fd(), words.data(), words.size(), MSG_NOSIGNAL);
        scheduler_.watch(socket_.fd(), EPOLLIN, [this](std::uint32_t) { hear(); });
    }

    /// The callee gives the words back; where both call, each hears the other's.
    void hear() {
        std::array<char, words.size()> said{};
        const ssize_t size = ::recv(socket_.fd(), said.data(), said.size(), 0);
        scheduler_.unwatch(socket_.fd());
        if (size > 0)
            outcome_ = Outcome::passes;
        else
            outcome_ = size == 0 ? Outcome::refused : outcome_by(errno);
    }

    Scheduler &scheduler_;
    TrialKind kind_;
    TrialWay way_;
    Socket socket_;
    Timer timer_;
    Time end_;
    Outcome outcome_ = Outcome::pending;
};

constexpr std::array outcomes{Outcome::pending, Outcome::passes,     Outcome::timed_out,
                              Outcome::refused, Outcome::prohibited, Outcome::failed};

} // namespace

std::string name(const TrialKind &kind) {
    if (kind.both_call)
        return std::string(name(kind.transport)) + ", both call";
    if (kind.idle > std::chrono::seconds(0))
        return fmt::format("{} after {} s", name(kind.transport), kind.idle.count());
    return name(kind.transport);
}

const char *name(Outcome outcome) {
    switch (outcome) {
    case Outcome::passes:
        return "passes";
    case Outcome::timed_out:
        return "timed out";
    case Outcome::refused:
        return "refused";
    case Outcome::prohibited:
        return "prohibited";
    case Outcome::failed:
        return "can't be tried";
    default:
        return "pending";
    }
}

Outcome outcome_of(const std::string &text) {
    for (const Outcome outcome : outcomes)
        if (text == name(outcome))
            return outcome;
    return Outcome::pending;
}

std::unique_ptr<Callee> make_callee(const PunchMeans &means, const TrialKind &kind,
                                    const TrialWay &way) {
    if (kind.transport == Transport::udp)
        return std::make_unique<DatagramCallee>(means, way);
    return std::make_unique<StreamCallee>(means, kind, way);
}

std::unique_ptr<Caller> make_caller(Scheduler &scheduler, const TrialKind &kind,
                                    const TrialWay &way) {
    if (kind.transport == Transport::udp)
        return std::make_unique<DatagramCaller>(scheduler, way);
    return std::make_unique<StreamCaller>(scheduler, kind, way);
}

} // namespace synergy
