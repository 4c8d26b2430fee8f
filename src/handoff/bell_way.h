// How a bell gets from this host to a listener, and whether it does.
#pragma once

#include "base/scheduler.h"
#include "base/socket.h"
#include "server/server_socket.h"
#include "server/socket_diag.h"
#include "wire.h"

#include <functional>
#include <map>
#include <vector>

namespace synergy {

/// True where it can't be told.
bool is_loopback_up();

/// Where a bell reaches the listener from this host.
Endpoint bell_address(const ServerSocket &listener);

/// By which interface a bell comes in. To an IPv6 address it comes by the one that has the address,
/// though it goes the way of the loopback interface.
unsigned interface_of(const Endpoint &to);

/// What keeps every bell from a listener, as the kernel tells before one rings.
struct Obstacle {
    const char *text;
    bool may_pass = false; ///< while the listener stays as it is
};
inline constexpr Obstacle loopback_is_down{.text = "the loopback interface is down",
                                           .may_pass = true};
inline constexpr Obstacle without_v6_loopback{
    .text = "the loopback interface has no ::1, by which connections are handed to a server that "
            "speaks IPv6 alone: ip address add ::1/128 dev lo",
    .may_pass = true};
inline constexpr Obstacle v6_loopback_is_disabled{
    .text = "the loopback interface has no ::1, by which connections are handed to a server that "
            "speaks IPv6 alone: sysctl net.ipv6.conf.lo.disable_ipv6=0",
    .may_pass = true};
inline constexpr Obstacle without_v4_loopback{
    .text = "the loopback interface has no 127.0.0.1, by which connections are handed to a server "
            "that speaks IPv4 alone: ip address add 127.0.0.1/8 dev lo",
    .may_pass = true};
inline constexpr Obstacle bound_to_device{
    .text = "no connection of this host's own reaches this listener, "
            "as where it is bound to a device"};
inline constexpr Obstacle anothers{
    .text = "this host's own connections to its address reach another program's listener"};
inline constexpr const char *filtered =
    "no connection from this host reaches it: does a firewall forbid "
    "the loopback interface?";
inline constexpr Obstacle without_port{
    .text = "another user holds all ports that bells come from, 61700 to 63747"};
static_assert(SYNERGY_FIRST_BELL_PORT == 61700 && SYNERGY_BELL_PORTS == 63748 - 61700);
inline constexpr Obstacle forbidden_ports{
    .text = "the server's sandbox lets nothing have the ports that bells come from, 61700 to 63747 "
            "(SocketBindAllow= of a systemd unit, Landlock)"};

enum class Heard : std::uint8_t { by_the_server, by_others, by_nobody };

/// That this host lacks the loopback address of a family, with what mends it; nullptr: it has it.
const Obstacle *loopback_obstacle(int family);

/// One that has not rung yet.
struct Bell {
    Socket socket;                      ///< bound to a port from which the server hears it; or
    Heard heard = Heard::by_the_server; ///< who hears all others; the server: errno says why not
};

class BellWay {
  public:
    /// A firewall that lets nothing pass is not silent for a moment only.
    static constexpr Duration silence_time = std::chrono::seconds(2);
    /// SCTP's INIT is repeated after 3 s (RFC 9260 16, RTO.Initial is 1 s; Linux has 3 s).
    static constexpr Duration sctp_silence_time = std::chrono::seconds(4);
    static constexpr Duration between_looks = std::chrono::milliseconds(200);

    /// `is_ours`: whether the listener with this cookie is the server's. `is_ringing`: whether the
    /// port is another bell's, on whatever address.
    BellWay(SocketDiag &socket_diag, std::function<bool(std::uint64_t cookie)> is_ours,
            std::function<bool(std::uint16_t port)> is_ringing)
        : socket_diag_(socket_diag), is_ours_(std::move(is_ours)),
          is_ringing_(std::move(is_ringing)) {}

    /// What keeps every bell from the listener, as far as the kernel tells; nullptr: nothing.
    /// Nothing is sent.
    [[nodiscard]] const Obstacle *obstacle(const ServerSocket &listener);
    /// `to`: its bell_address(), of either name.
    [[nodiscard]] Bell bell_for(const ServerSocket &listener, const Endpoint &to);

  private:
    [[nodiscard]] Heard would_hear(const ServerSocket &listener, const Endpoint &from,
                                   const Endpoint &to) const;
    [[nodiscard]] const Obstacle *hearing_obstacle(const ServerSocket &listener) const;
    [[nodiscard]] const Obstacle *reserve_ports(Transport transport);
    [[nodiscard]] Socket bound_bell(const ServerSocket &listener, const Endpoint &to);

    SocketDiag &socket_diag_;
    const std::function<bool(std::uint64_t cookie)> is_ours_;
    const std::function<bool(std::uint16_t port)> is_ringing_;
    unsigned next_port_ = 0;
    std::map<Transport, std::vector<Socket>> reserved_; ///< that have a port
};

} // namespace synergy
