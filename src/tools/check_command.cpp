#include "tools/check_command.h"

#include "base/log.h"
#include "handoff/bell_way.h"
#include "server/reach.h"
#include "settings/host_names.h"
#include "settings/load_settings.h"
#include "settings/settings_file.h"
#include "tools/check_peers.h"
#include "tools/own_environment.h"
#include "tools/preloadable.h"
#include "wire.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

namespace synergy {

namespace {

constexpr int exit_wrong = 1;

// The settings

void check_file(const Settings &settings, Findings &findings) {
    struct stat status {};
    // (What is no file is named where it is read.)
    if (settings.file.empty() || ::stat(settings.file.c_str(), &status) != 0 ||
        !S_ISREG(status.st_mode))
        return;
    const auto is_of_it = [&](const Problem &problem) {
        return problem.place.starts_with(settings.file) ||
               problem.text.find(settings.file) != std::string::npos;
    };
    if (status.st_uid != 0 && status.st_uid != geteuid())
        findings.wrong(settings.file + " belongs to user " + std::to_string(status.st_uid) +
                       ", who can let peers in: chown it");
    else if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0)
        findings.wrong(settings.file + " can be written by others than its owner, who can let "
                                       "peers in: chmod go-w");
    else if (std::none_of(settings.problems.begin(), settings.problems.end(), is_of_it))
        findings.right("settings: " + settings.file);
}

/// What is not looked at without a word, beside a config file that is none: a link to nothing is no
/// file, and without the file nobody looks into peers.d.
std::string passed_over(const std::string &file) {
    namespace fs = std::filesystem;
    std::error_code error;
    if (fs::is_symlink(file, error) && !fs::exists(file, error))
        return file + " is a link to what is not there";
    int no_directory = 0;
    if (!fs::exists(file, error) &&
        (!read_peer_files(file, no_directory).empty() || !files_beside_peers(file).empty()))
        return peer_directory(file) + " counts only beside " + file + ": make that, if only empty";
    return {};
}

void check_settings(const Settings &settings, Findings &findings) {
    for (const Problem &problem : settings.problems)
        findings.wrong(problem.line());
    check_file(settings, findings);
    for (const PassedOver &file : settings.passed_over)
        file.is_mistake ? findings.wrong(file.line()) : findings.right(file.line());
    if (!settings.hidden_file.empty() && !settings.has_peers())
        findings.wrong("whether there is " + settings.hidden_file +
                       " can't be told: this user may not look into that directory");
    if (settings.log_file != "stderr" && settings.log_file != "syslog")
        if (const int error = log::why_unwritable(settings.log_file); error != 0)
            findings.wrong("the log file " + settings.log_file +
                           " can't be written: " + strerrordesc_np(error));
    // (What is wrong may be the peers.)
    if (!settings.has_peers() && settings.problems.empty()) {
        std::string places;
        std::string more;
        for (const std::string &file : config_places(own_variable)) {
            places.append(places.empty() ? " or in " : ", ").append(file);
            if (const std::string why = passed_over(file); !why.empty())
                more.append(". ").append(why);
        }
        findings.wrong("no peers are set, in SYNERGY_PEERS" + places + hint_at_environment() +
                       more);
    }
}

// This host

/// Linux 5.9 is the first that has all that is needed (close_range(2), the clock of SYNs).
void check_kernel(Findings &findings) {
    utsname system{};
    int major = 0;
    int minor = 0;
    char dot = 0;
    uname(&system);
    std::istringstream release(system.release);
    release >> major >> dot >> minor;
    const std::string text = std::string(system.sysname) + " " + system.release;
    if (std::pair(major, minor) < std::pair(5, 9))
        findings.wrong(text + ": Linux 5.9 is the oldest that will do");
    else
        findings.right(text);
}

void check_sandbox(Findings &findings) {
    if (!Socket::open(AF_UNIX, SOCK_SEQPACKET))
        findings.wrong("Unix sockets are forbidden here (AF_UNIX is missing from "
                       "RestrictAddressFamilies= of a systemd unit?)");
    if (!Socket::open(AF_NETLINK, SOCK_RAW))
        findings.wrong("netlink sockets are forbidden here (AF_NETLINK is missing from "
                       "RestrictAddressFamilies= of a systemd unit?): routes can't be seen");
    struct stat own {};
    struct stat childrens {};
    if (::stat("/proc/self/ns/pid", &own) == 0 &&
        ::stat("/proc/self/ns/pid_for_children", &childrens) == 0 && own.st_ino != childrens.st_ino)
        findings.wrong("the next child would begin a process namespace (unshare --pid without "
                       "--fork): synergy-keeper can't be started");
}

struct Loopback {
    bool is_there = true; ///< false: the port, or the address, can't be had to try it out
    bool is_without_port = false;
    bool is_through = false;
    int error = 0; ///< 0: silence
};

/// A connection is handed to the server by one from this host, from a port of its own kind.
Loopback try_loopback(const Endpoint &at) {
    const Socket listener = Socket::open(at.family(), SOCK_STREAM);
    const Socket client = Socket::open(at.family(), SOCK_STREAM);
    // (Connections of a server that was there before may rest.)
    listener.set(SOL_SOCKET, SO_REUSEADDR, 1);
    if (!listener || !client || ::bind(listener.fd(), at.data(), at.length()) != 0 ||
        ::listen(listener.fd(), 1) != 0)
        return {.is_there = false, .is_without_port = at.port() == 0 && errno == EADDRINUSE};
    for (int i = SYNERGY_BELL_PORTS; i-- > 0;) {
        const Endpoint from = at.with_port(static_cast<std::uint16_t>(SYNERGY_FIRST_BELL_PORT + i));
        if (::bind(client.fd(), from.data(), from.length()) == 0 || errno != EADDRINUSE)
            break;
    }
    client.reset_when_closed();
    const Endpoint to = listener.local();
    if (::connect(client.fd(), to.data(), to.length()) != 0 && errno != EINPROGRESS)
        return {.error = errno};
    pollfd done{.fd = client.fd(), .events = POLLOUT, .revents = 0};
    constexpr int patience_ms = 1000;
    if (::poll(&done, 1, patience_ms) != 1)
        return {};
    const int error = client.get(SOL_SOCKET, SO_ERROR, 0);
    return {.is_through = error == 0, .error = error};
}

bool has_v6_peer(const Settings &settings) {
    const auto is_v6 = [](const Endpoint &address) { return address.family() == AF_INET6; };
    const auto has_v6 = [&](const Peer &peer) {
        if (peer.host.empty())
            return is_v6(peer.address);
        const std::vector<Endpoint> addresses = resolve_host(peer.host).addresses;
        return std::any_of(addresses.begin(), addresses.end(), is_v6);
    };
    const auto has_one = [&](const auto &each) {
        return std::any_of(each.peers.begin(), each.peers.end(), has_v6);
    };
    return std::any_of(settings.rules.begin(), settings.rules.end(), has_one) ||
           std::any_of(settings.peer_files.begin(), settings.peer_files.end(), has_one);
}

void check_loopback(int family, const Settings &settings, Findings &findings) {
    if (!is_loopback_up()) {
        findings.wrong("the loopback interface is down, by which connections are handed to the "
                       "server: ip link set lo up");
        return;
    }
    const Endpoint any = Endpoint::loopback(family, 0);
    const auto wrong = [&](const std::string &where, const Loopback &found) {
        findings.wrong("no connection from this host to " + where + " comes through (" +
                       (found.error != 0 ? strerrordesc_np(found.error) : "it is dropped") +
                       "), so none can be handed to the server: let a firewall on this host accept "
                       "what the loopback interface (lo) brings");
    };
    const Loopback found = try_loopback(any);
    if (found.is_without_port) {
        findings.wrong("no local port is left (net.ipv4.ip_local_port_range), so the loopback "
                       "interface can't be tried out");
        return;
    }
    if (const Obstacle *obstacle = loopback_obstacle(family)) {
        // Many a container has no IPv6 at all, and then IPv4 serves for both.
        if (family == AF_INET || has_v6_peer(settings))
            findings.wrong(obstacle->text);
        return;
    }
    if (!found.is_there)
        return;
    if (!found.is_through) {
        wrong(any.address_text(), found);
        return;
    }
    // A firewall may have rules for the server's ports alone. Those of a wide range are not named.
    constexpr unsigned ports_most = 16;
    unsigned count = 0;
    for (const PortRange &range : settings.concerned_ports(Transport::tcp)) {
        if (range.last - range.first >= static_cast<int>(ports_most))
            continue;
        for (unsigned port = range.first; port <= range.last && count < ports_most; port++) {
            count++;
            const Endpoint at = any.with_port(static_cast<std::uint16_t>(port));
            const Loopback there = try_loopback(at);
            if (there.is_there && !there.is_through) {
                wrong(at.text(), there);
                return;
            }
        }
    }
    findings.right("the loopback interface lets connections to " + any.address_text() + " through");
}

// The command

std::string why_no_command(const std::string &command) {
    struct stat status {};
    if (command.find('/') == std::string::npos || ::stat(command.c_str(), &status) != 0)
        return "there is no command " + command;
    return command +
           " can't be executed: " + strerrordesc_np(S_ISDIR(status.st_mode) ? EISDIR : EACCES);
}

void check_command(const std::vector<std::string> &words, Findings &findings) {
    const std::string library = find_library();
    findings.wrong_if(library_objection(library));
    const std::vector<std::vector<std::string>> commands = commands_in(words);
    if (commands.empty())
        return;
    if (const std::string setting = setting_by_env(commands); !setting.empty())
        findings.wrong("env sets " + setting +
                       " for what it starts, and that is not looked at: set it before `synergy "
                       "check`");
    const std::string &first = commands.front()[0];
    if (find_command(first).empty())
        findings.wrong(why_no_command(first));
    else if (const auto reason = why_left_out(commands, library))
        findings.wrong(*reason);
    else
        findings.right(find_command(commands.back()[0]) + " can be preloaded");
}

/// Listeners on the ports that count, which another user has made.
void check_listeners(const Settings &settings, Findings &findings) {
    constexpr const char *is_listening = "0A";
    const std::vector<PortRange> ports = settings.concerned_ports(Transport::tcp);
    for (const char *table : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
        std::ifstream file(table);
        std::string line;
        std::getline(file, line);
        while (std::getline(file, line)) {
            std::istringstream fields(line);
            std::string number, local, remote, state, queues, timer, retransmits;
            ServerSocket socket;
            fields >> number >> local >> remote >> state >> queues >> timer >> retransmits >>
                socket.owner;
            const auto port = static_cast<unsigned>(
                std::strtoul(local.substr(local.rfind(':') + 1).c_str(), nullptr, 16));
            const auto holds = [port](const PortRange &range) {
                return range.first <= port && port <= range.last && range.last - range.first < 1000;
            };
            const std::string reason = why_not_beside(socket, geteuid());
            if (state == is_listening && !reason.empty() &&
                std::any_of(ports.begin(), ports.end(), holds))
                findings.wrong("tcp port " + std::to_string(port) + ": " + reason);
        }
    }
}

} // namespace

int run_check(const CheckOptions &options) {
    if (!options.peer.empty())
        ::setenv("SYNERGY_PEERS", options.peer.c_str(), 1);
    Settings settings = load_settings(own_variable, environ);
    for (Problem &problem : settings.problems)
        if (problem.place == "SYNERGY_PEERS" && !options.peer.empty()) {
            problem.place = "PEER";
            if (problem.text == options.peer && !find_command(options.peer).empty())
                problem.expected += "; and `--` before a command";
        }
    Findings findings;
    check_settings(settings, findings);
    check_command(options.command, findings);
    check_kernel(findings);
    check_sandbox(findings);
    for (const int family : {AF_INET6, AF_INET})
        check_loopback(family, settings, findings);
    check_listeners(settings, findings);
    check_peers(settings, findings);
    if (options.json)
        findings.print_json();
    else
        findings.print();
    return findings.is_any_wrong() ? exit_wrong : 0;
}

} // namespace synergy
