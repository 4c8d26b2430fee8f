// A descriptor as a value that closes what it holds.
#pragma once

#include "base/endpoint.h"

#include <array>
#include <cerrno>
#include <cstdint>
#include <utility>

#include <sys/socket.h>
#include <unistd.h>

namespace synergy {

/// An option whose value is an int; `otherwise` where it can't be read.
inline int get_option(int fd, int level, int option, int otherwise = 0) {
    int value = 0;
    socklen_t length = sizeof value;
    return getsockopt(fd, level, option, &value, &length) == 0 ? value : otherwise;
}

/// The interface that a socket is bound to, by its number, as SO_BINDTODEVICE has it by its name
/// (SO_BINDTOIFINDEX of asm-generic/socket.h, Linux 5.0).
constexpr int bind_to_interface = 62;

/// One of SO_MEMINFO's numbers (linux/sock_diag.h: SK_MEMINFO_DROPS, say); 0 where it can't be
/// read.
inline std::uint32_t meminfo_of(int fd, std::size_t number) {
    constexpr int so_meminfo = 55; // asm-generic/socket.h
    std::array<std::uint32_t, 16> values{};
    socklen_t length = sizeof values;
    return getsockopt(fd, SOL_SOCKET, so_meminfo, values.data(), &length) == 0 &&
                   length > number * sizeof values[0]
               ? values.at(number)
               : 0;
}

class Socket {
  public:
    Socket() = default;
    explicit Socket(int fd) : fd_(fd) {}
    Socket(Socket &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Socket &operator=(Socket &&other) noexcept {
        if (this != &other) {
            reset();
            fd_ = std::exchange(other.fd_, -1);
        }
        return *this;
    }
    Socket(const Socket &) = delete;
    Socket &operator=(const Socket &) = delete;
    ~Socket() { reset(); }

    /// socket(2), closed on exec and non-blocking; empty and errno set if there is none to be had.
    static Socket open(int family, int type, int protocol = 0) {
        return Socket(::socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol));
    }

    explicit operator bool() const { return fd_ >= 0; }
    [[nodiscard]] int fd() const { return fd_; }
    /// close() of a connection sends a reset at once then, instead of taking leave (socket(7),
    /// SO_LINGER).
    void reset_when_closed() const {
        constexpr linger at_once{.l_onoff = 1, .l_linger = 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    }
    int release() { return std::exchange(fd_, -1); }
    /// Closes; keeps errno.
    void reset() {
        if (fd_ >= 0) {
            int saved = errno;
            ::close(fd_);
            errno = saved;
            fd_ = -1;
        }
    }

    bool set(int level, int option, int value) const {
        return ::setsockopt(fd_, level, option, &value, sizeof value) == 0;
    }
    [[nodiscard]] int get(int level, int option, int otherwise) const {
        return get_option(fd_, level, option, otherwise);
    }
    [[nodiscard]] Endpoint local() const { return name(getsockname); }
    [[nodiscard]] Endpoint remote() const { return name(getpeername); }

  private:
    template <typename Call> [[nodiscard]] Endpoint name(Call call) const {
        sockaddr_storage address{};
        socklen_t length = sizeof address;
        auto *any = reinterpret_cast<sockaddr *>(&address);
        return call(fd_, any, &length) == 0 ? Endpoint::from(any, length) : Endpoint{};
    }

    int fd_ = -1;
};

} // namespace synergy
