#include "tools/check_command.h"

#include "base/log.h"
#include "handoff/bell_way.h"
#include "hops/addresses.h"
#include "hops/hop_choice.h"
#include "hops/path_probe.h"
#include "hops/route.h"
#include "punch/failure.h"
#include "server/reach.h"
#include "settings/host_names.h"
#include "settings/load_settings.h"
#include "settings/settings_file.h"
#include "tools/documents.h"
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
#include <iostream>
#include <map>
#include <sstream>

namespace synergy {

namespace {

constexpr int exit_wrong = 1;

/// What has been found out, a line each.
class Findings {
  public:
    void right(const std::string &text) { add(false, text); }
    void wrong(const std::string &text) { add(true, text); }
    /// Empty: nothing is.
    void wrong_if(const std::string &text) {
        if (!text.empty())
            wrong(text);
    }

    [[nodiscard]] bool is_any_wrong() const {
        return std::any_of(all_.begin(), all_.end(),
                           [](const Finding &each) { return each.is_wrong; });
    }

    void print() const {
        for (const Finding &each : all_)
            std::cout << (each.is_wrong ? "wrong: " : "ok: ") << each.text << '\n';
        std::cout << std::flush;
    }

    void print_json() const { std::cout << findings_json(!is_any_wrong(), all_) << std::endl; }

  private:
    void add(bool is_wrong, const std::string &text) {
        const auto is_it = [&](const Finding &each) { return each.text == text; };
        if (std::none_of(all_.begin(), all_.end(), is_it))
            all_.push_back({is_wrong, text});
    }

    std::vector<Finding> all_;
};

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

void check_settings(const Settings &settings, Findings &findings) {
    for (const Problem &problem : settings.problems)
        findings.wrong(problem.line());
    check_file(settings, findings);
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
        for (const std::string &file : config_places(own_variable))
            places.append(places.empty() ? " or in " : ", ").append(file);
        findings.wrong("no peers are set, in SYNERGY_PEERS" + places);
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
    if (!found.is_there) {
        // Many a container has no IPv6 on its loopback interface, and then IPv4 serves for both.
        if (family == AF_INET)
            findings.wrong("the loopback interface has no " + any.address_text() +
                           ": connections can't be handed to the server");
        return;
    }
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

void check_command(const std::vector<std::string> &command, Findings &findings) {
    const std::string library = find_library();
    findings.wrong_if(library_objection(library));
    if (!library.empty() && find_keeper(library).empty())
        findings.wrong("synergy-keeper is neither beside " + library + " nor installed");
    if (command.empty())
        return;
    const std::string file = find_command(command[0]);
    if (file.empty())
        findings.wrong(why_no_command(command[0]));
    else if (const auto lost = why_not_passed_on(command))
        findings.wrong(*lost);
    else if (const auto reason = why_not_preloadable(file, library))
        findings.wrong(*reason);
    else
        findings.right(file + " can be preloaded");
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

// The peers

struct Way {
    Endpoint peer;          ///< port 0
    std::uint16_t port = 0; ///< one of them
    HopLimit hops;
    std::string name;  ///< as the user wrote it
    std::string ports; ///< "5555, 5557-5560"
    std::unique_ptr<PathProbe> probe{};
    std::optional<Path> path{};
    Endpoint source{};
};

constexpr std::size_t ports_shown = 100; ///< bytes

/// Each address with each hop limit once, whatever the ports and the rules.
std::vector<Way> ways_of(const Settings &settings, Findings &findings) {
    std::vector<Way> ways;
    const auto add = [&](const Peer &peer, HopLimit hops) {
        std::vector<Endpoint> addresses{peer.address};
        if (!peer.host.empty()) {
            ResolvedHost found = resolve_host(peer.host);
            if (found.error != 0)
                findings.wrong(peer.host + " " + found.what_is_wrong());
            addresses = std::move(found.addresses);
        }
        std::string ports = std::to_string(peer.first_port);
        if (peer.last_port != peer.first_port)
            ports += "-" + std::to_string(peer.last_port);
        for (const Endpoint &address : addresses) {
            const auto way = std::find_if(ways.begin(), ways.end(), [&](const Way &each) {
                return each.peer == address && each.hops == hops && each.name == peer.host;
            });
            if (way == ways.end())
                ways.push_back({.peer = address,
                                .port = peer.first_port,
                                .hops = hops,
                                .name = peer.host,
                                .ports = ports});
            else if (way->ports.size() < ports_shown)
                way->ports.append(",").append(ports);
            else if (!way->ports.ends_with("..."))
                way->ports.append(",...");
        }
    };
    for (const Rule &rule : settings.rules)
        for (const Peer &peer : rule.peers)
            add(peer, rule.hops);
    for (const PeerFile &file : settings.peer_files)
        for (const Peer &peer : file.peers)
            add(peer, file.hops.value_or(settings.hops));
    return ways;
}

std::string text_of(const Way &way) {
    const std::string address = way.peer.address_text();
    const std::string text =
        (way.peer.family() == AF_INET6 ? "[" + address + "]" : address) + ":" + way.ports;
    return way.name.empty() ? text : way.name + " (" + text + ")";
}

/// The server's, where it is known; or 0.
std::uint16_t only_port(const Settings &settings) {
    const std::vector<PortRange> ports = settings.concerned_ports(Transport::tcp);
    return ports.size() == 1 && ports[0].first == ports[0].last ? ports[0].first : 0;
}

/// What can be said without sending anything. False: there is nothing to be measured.
bool check_addresses(Way &way, const Settings &settings, Findings &findings) {
    const Endpoint chosen = settings.local_for(way.peer.family());
    const std::string who = text_of(way) + ": ";
    if (const std::string cause = local_setting_cause(settings, way.peer.family());
        !cause.empty()) {
        findings.wrong(who + "can't punch: " + cause);
        return false;
    }
    const std::optional<Route> route = route_to(way.peer, chosen);
    const Endpoint to = way.peer.with_port(way.port);
    const Endpoint from = (chosen.empty() ? Endpoint::wildcard(to.family(), 0) : chosen)
                              .with_port(only_port(settings));
    // (An address of the link's own needs no interface for that.)
    if (!route || !route->on_link)
        if (const int error = route_error(from, to, Transport::tcp); error != 0) {
            findings.wrong(
                who + "can't punch: " + local_cause(error, from, to, settings, Transport::tcp));
            return false;
        }
    if (way.peer.is_loopback() || (route && route->is_local)) {
        findings.wrong(who +
                       "that address is this host's own, and no peer's. Peers are at the other "
                       "side; from here the port can be reached as it is");
        return false;
    }
    if (!route)
        return true;
    if (route->on_link) {
        findings.right(who + "not punched: the peer is on the same link, with no router between");
        return false;
    }
    way.source = route->source;
    findings.wrong_if(address_objection(route->source, way.peer).empty()
                          ? ""
                          : who + address_objection(route->source, way.peer));
    if (!chosen.empty())
        return true;
    std::string others;
    for (const Endpoint &other : other_addresses(route->source, way.peer))
        others.append(others.empty() ? "" : ", ").append(other.address_text());
    if (!others.empty())
        findings.wrong(who + "punches leave from " + route->source.address_text() +
                       ", and only who calls that gets in; this host has " + others +
                       " as well. SYNERGY_LOCAL chooses");
    return true;
}

void check_hops(const Way &way, const Settings &settings, Findings &findings) {
    const Path &path = *way.path;
    const std::string who = text_of(way) + ": ";
    const HopChoice choice = choose_hop_limit(path, settings.hop_bounds);
    const int hops = way.hops.is_automatic() ? choice.hops : way.hops.number();
    if (path.last_answer() == 0)
        if (const std::string mute = mute_gateway_cause(way.source, way.peer); !mute.empty()) {
            findings.wrong(who + "can't punch: " + mute);
            return;
        }
    if (path.last_answer() == 0 && !path.is_kept_in && !path.is_without_port)
        if (const std::string foreign = foreign_source(way.peer, way.source); !foreign.empty()) {
            findings.wrong(who + foreign);
            return;
        }
    if (path.is_kept_in)
        findings.wrong(who +
                       "a firewall on this host lets no UDP out, so the path can't be measured "
                       "(OUTPUT)");
    if (way.hops.is_automatic() && !choice.is_found && !path.is_kept_in) {
        findings.wrong(who + "hop limit " + std::to_string(hops) + ": " + choice.reason +
                       ". Where nobody gets in, set one that crosses the last firewall of this "
                       "side");
        return;
    }
    if (!way.hops.is_automatic()) {
        std::string objection = hop_limit_objection(path, hops, settings.hop_bounds);
        if (objection.empty())
            objection = hop_limit_doubt(path, hops, settings.hop_bounds);
        if (!objection.empty()) {
            findings.wrong(who + objection);
            return;
        }
    }
    std::string text = who + "punched";
    if (!way.source.empty())
        text += " from " + way.source.address_text();
    text += ", hop limit " + std::to_string(hops);
    for (const Hop &hop : path.hops)
        if (hop.limit == hops && hop.answer == HopAnswer::time_exceeded)
            text += ", dies at " + hop.from.address_text();
    findings.right(text);
}

void check_peers(const Settings &settings, Findings &findings) {
    constexpr std::size_t at_a_time = 16;
    std::vector<Way> ways = ways_of(settings, findings);
    std::erase_if(ways, [&](Way &way) { return !check_addresses(way, settings, findings); });
    Scheduler scheduler;
    for (std::size_t begin = 0; begin < ways.size(); begin += at_a_time) {
        const std::size_t end = std::min(ways.size(), begin + at_a_time);
        std::size_t open = end - begin;
        for (std::size_t i = begin; i < end; i++)
            ways[i].probe = std::make_unique<PathProbe>(scheduler, ways[i].peer,
                                                        settings.local_for(ways[i].peer.family()),
                                                        [&open, &way = ways[i]](const Path &path) {
                                                            way.path = path;
                                                            open--;
                                                        });
        while (open > 0)
            scheduler.run_once(std::chrono::seconds(1));
        for (std::size_t i = begin; i < end; i++)
            check_hops(ways[i], settings, findings);
    }
}

} // namespace

int run_check(const CheckOptions &options) {
    if (!options.peer.empty())
        ::setenv("SYNERGY_PEERS", options.peer.c_str(), 1);
    Settings settings = load_settings(own_variable, environ);
    for (Problem &problem : settings.problems)
        if (problem.place == "SYNERGY_PEERS" && !options.peer.empty())
            problem.place = "PEER";
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
