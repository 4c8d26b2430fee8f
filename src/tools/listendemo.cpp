// listendemo tcp|udp|sctp LADDR LPORT RADDR RPORT HOPLIMIT
//
// The smallest server that opens its own firewall: it waits for one peer, sends standard input to
// it and writes what comes from it to standard output.
#include "include/sys/socketsynergy.h"

#include <CLI/CLI.hpp>
#include <arpa/inet.h>
#include <array>
#include <charconv>
#include <cstdio>
#include <fcntl.h>
#include <map>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>
#include <system_error>
#include <unistd.h>

namespace {

enum class Transport : std::uint8_t { tcp, udp, sctp };

/// For the socket calls.
struct Address {
    sockaddr_storage storage{};
    socklen_t length = 0;

    [[nodiscard]] const sockaddr *data() const {
        return reinterpret_cast<const sockaddr *>(&storage);
    }
};

[[noreturn]] void fail(const char *what) {
    throw std::system_error(errno, std::generic_category(), what);
}

[[noreturn]] void refuse(const char *place, const std::string &text, const std::string &expected) {
    throw CLI::ValidationError(place, "'" + text + "': expected " + expected);
}

/// A decimal number, and nothing else; -1: it is none.
int parse_number(const std::string &text) {
    int value = 0;
    const char *end = text.data() + text.size();
    const auto [stopped, error] = std::from_chars(text.data(), end, value);
    return error == std::errc() && stopped == end ? value : -1;
}

/// As synergy_to() takes it.
int parse_hop_limit(const std::string &text) {
    if (text == "auto")
        return -1;
    const int value = parse_number(text);
    if (value < 1 || value > 254)
        refuse("HOPLIMIT", text, "a hop limit from 1 to 254, or auto");
    return value;
}

std::uint16_t parse_port(const char *place, const std::string &text) {
    const int value = parse_number(text);
    if (value < 1 || value > 65535)
        refuse(place, text, "a port from 1 to 65535");
    return static_cast<std::uint16_t>(value);
}

Address parse_address(const char *place, const std::string &text, std::uint16_t port) {
    Address address;
    auto *v6 = reinterpret_cast<sockaddr_in6 *>(&address.storage);
    auto *v4 = reinterpret_cast<sockaddr_in *>(&address.storage);
    const std::size_t percent = text.find('%');
    if (inet_pton(AF_INET6, text.substr(0, percent).c_str(), &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        if (percent != std::string::npos)
            v6->sin6_scope_id = if_nametoindex(text.substr(percent + 1).c_str());
        if ((percent != std::string::npos || IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr)) &&
            v6->sin6_scope_id == 0)
            refuse(place, text, "after a link-local address '%' and an interface, as fe80::5%eth0");
        address.length = sizeof *v6;
    } else if (inet_pton(AF_INET, text.c_str(), &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        address.length = sizeof *v4;
    } else {
        refuse(place, text, "an IPv6 or IPv4 address, as 2001:db8::5 or 198.51.100.5");
    }
    return address;
}

/// That both are of one family, where the server does not listen for both, and none but peers.
void check_local(const Address &local, const std::string &text, const Address &peer) {
    const auto *v6 = reinterpret_cast<const sockaddr_in6 *>(&local.storage);
    const auto *v4 = reinterpret_cast<const sockaddr_in *>(&local.storage);
    const bool is_v6 = local.storage.ss_family == AF_INET6;
    if (is_v6 ? IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr)
              : ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET)
        refuse("LADDR", text, "an address that the peer can reach");
    const bool is_for_both = is_v6 && IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr);
    if (local.storage.ss_family != peer.storage.ss_family && !is_for_both)
        refuse("LADDR", text, "an address of RADDR's family");
}

void write_all(int fd, const char *data, std::size_t size) {
    while (size > 0) {
        ssize_t written = ::write(fd, data, size);
        if (written < 0)
            fail("write");
        data += written;
        size -= static_cast<std::size_t>(written);
    }
}

/// Carries data both ways until the peer has closed its side (TCP, SCTP) or standard input has
/// ended and nothing more comes (UDP has no end of its own).
void carry(int fd, Transport transport) {
    bool is_stream = transport != Transport::udp;
    std::array<pollfd, 2> watched{{{STDIN_FILENO, POLLIN, 0}, {fd, POLLIN, 0}}};
    std::array<char, 65536> buffer{};
    for (;;) {
        if (poll(watched.data(), watched.size(), -1) < 0)
            fail("poll");
        if (watched[0].revents != 0) {
            ssize_t got = ::read(STDIN_FILENO, buffer.data(), is_stream ? buffer.size() : 1200);
            if (got > 0) {
                write_all(fd, buffer.data(), static_cast<std::size_t>(got));
            } else {
                watched[0].fd = -1;
                // SCTP has no half-closed state: the peer could say nothing more (RFC 9260 2.5.1).
                if (transport == Transport::tcp)
                    shutdown(fd, SHUT_WR);
            }
        }
        if (watched[1].revents != 0) {
            ssize_t got = ::recv(fd, buffer.data(), buffer.size(), 0);
            if (got < 0)
                fail("recv");
            if (got == 0 && is_stream)
                return;
            write_all(STDOUT_FILENO, buffer.data(), static_cast<std::size_t>(got));
        }
    }
}

int open_socket(Transport transport, int family) {
    int type = transport == Transport::udp ? SOCK_DGRAM : SOCK_STREAM;
    int fd = socket(family, type | SOCK_CLOEXEC, transport == Transport::sctp ? IPPROTO_SCTP : 0);
    if (fd < 0 && transport == Transport::sctp && errno == EPROTONOSUPPORT)
        throw std::runtime_error("this kernel has no SCTP; `modprobe sctp` loads it where it is "
                                 "a module");
    if (fd < 0)
        fail("socket");
    return fd;
}

void punch(int fd, const Address &peer, int hop_limit) {
    if (synergy_to(fd, peer.data(), peer.length, hop_limit) != 0)
        fail("punch");
}

void serve_stream(int fd, Transport transport) {
    int connection = accept4(fd, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0)
        fail("accept");
    close(fd);
    carry(connection, transport);
}

void serve_udp(int fd) {
    // The first datagram tells that the peer is there; from then on it is the only one.
    char none;
    sockaddr_storage from{};
    socklen_t length = sizeof from;
    auto *any = reinterpret_cast<sockaddr *>(&from);
    if (recvfrom(fd, &none, 1, MSG_PEEK, any, &length) < 0)
        fail("recvfrom");
    if (connect(fd, any, length) != 0)
        fail("connect");
    carry(fd, Transport::udp);
}

void serve(Transport transport, const Address &local, const Address &peer, int hops) {
    const int fd = open_socket(transport, local.storage.ss_family);
    constexpr int on = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0)
        fail("setsockopt");
    if (bind(fd, local.data(), local.length) != 0)
        fail("bind");
    if (transport != Transport::udp && listen(fd, 1) != 0)
        fail("listen");
    punch(fd, peer, hops);
    if (transport == Transport::udp)
        serve_udp(fd);
    else
        serve_stream(fd, transport);
}

} // namespace

// (What escapes is for want of memory, before anything has started.)
int main(int argc, char **argv) { // NOLINT(bugprone-exception-escape)
    CLI::App app{"Waits for one peer behind a firewall of its own: standard input goes to it, what "
                 "it sends to standard output.",
                 "listendemo"};
    const std::map<std::string, Transport> transports{
        {"tcp", Transport::tcp}, {"udp", Transport::udp}, {"sctp", Transport::sctp}};
    std::string transport_name, local_address, local_port, remote_address, remote_port, hop_limit;
    app.add_option("TRANSPORT", transport_name, "tcp, udp or sctp")->type_name("")->required();
    app.add_option("LADDR", local_address, "address to listen on")->type_name("")->required();
    app.add_option("LPORT", local_port, "port to listen on")->type_name("")->required();
    app.add_option("RADDR", remote_address, "address that the peer comes from")
        ->type_name("")
        ->required();
    app.add_option("RPORT", remote_port, "port that the peer comes from")
        ->type_name("")
        ->required();
    app.add_option("HOPLIMIT", hop_limit, "1 to 254, or auto")->type_name("")->required();
    app.failure_message([](const CLI::App *, const CLI::Error &error) {
        return std::string("listendemo: ") + error.what() + "\n";
    });
    try {
        app.parse(argc, argv);
        if (!transports.contains(transport_name))
            refuse("TRANSPORT", transport_name, "tcp, udp or sctp");
        const Transport transport = transports.at(transport_name);
        const Address local =
            parse_address("LADDR", local_address, parse_port("LPORT", local_port));
        const Address peer =
            parse_address("RADDR", remote_address, parse_port("RPORT", remote_port));
        const int hops = parse_hop_limit(hop_limit);
        check_local(local, local_address, peer);
        serve(transport, local, peer, hops);
        return 0;
    } catch (const CLI::ExtrasError &) {
        std::fprintf(stderr, "listendemo: '%s': expected nothing more: see listendemo --help\n",
                     app.remaining().front().c_str());
        return 2;
    } catch (const CLI::ParseError &error) {
        return app.exit(error) == 0 ? 0 : 2;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "listendemo: %s\n", error.what());
        return 1;
    }
}
