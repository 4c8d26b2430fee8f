// hello tcp|udp|sctp LADDR LPORT PADDR PPORT
//
// A client that does its part: it opens the firewalls on its own side as well, connects, sends a
// line and prints the answer.
//
//   c++ hello.cpp $(pkg-config --cflags --libs synergy)
#include <sys/socketsynergy.h>

#include <array>
#include <cerrno>
#include <iostream>
#include <memory>
#include <netdb.h>
#include <string>
#include <system_error>
#include <unistd.h>

namespace {

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Addresses resolve(const char *address, const char *port, int type) {
    addrinfo hints{};
    hints.ai_socktype = type;
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    addrinfo *found = nullptr;
    if (int error = getaddrinfo(address, port, &hints, &found); error != 0)
        throw std::runtime_error(std::string(address) + ": " + gai_strerror(error));
    return {found, freeaddrinfo};
}

void check(bool succeeded, const char *what) {
    if (!succeeded)
        throw std::system_error(errno, std::generic_category(), what);
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 6) {
        std::cerr << "usage: " << argv[0] << " tcp|udp|sctp LADDR LPORT PADDR PPORT\n";
        return 2;
    }
    try {
        int type = std::string(argv[1]) == "udp" ? SOCK_DGRAM : SOCK_STREAM;
        int protocol = std::string(argv[1]) == "sctp" ? IPPROTO_SCTP : 0;
        Addresses local = resolve(argv[2], argv[3], type);
        Addresses peer = resolve(argv[4], argv[5], type);
        int fd = socket(local->ai_family, type, protocol);
        check(fd >= 0, "socket");
        check(bind(fd, local->ai_addr, local->ai_addrlen) == 0, "bind");
        check(synergy_to(fd, peer->ai_addr, peer->ai_addrlen, -1) == 0, "synergy");
        check(connect(fd, peer->ai_addr, peer->ai_addrlen) == 0, "connect");
        const std::string line = "hello\n";
        check(send(fd, line.data(), line.size(), 0) == static_cast<ssize_t>(line.size()), "send");
        std::array<char, 2048> answer{};
        ssize_t got = recv(fd, answer.data(), answer.size(), 0);
        check(got >= 0, "recv");
        std::cout.write(answer.data(), got);
        close(fd);
        return 0;
    } catch (const std::exception &error) {
        std::cerr << "hello: " << error.what() << '\n';
        return 1;
    }
}
