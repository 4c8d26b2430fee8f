#include "harness.h"
#include "settings/load_settings.h"
#include "settings/peer_list.h"
#include "settings/settings.h"
#include "settings/settings_file.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>

using namespace synergy;
using harness::Directory;

namespace {

using Variables = std::map<std::string, std::string>;

/// Settings from these variables alone; no config file unless they name one.
Settings load(Variables variables) {
    if (!variables.contains("SYNERGY_CONFIG") && !variables.contains("HOME"))
        variables["SYNERGY_CONFIG"] = "/dev/null";
    return load_settings([&](const char *name) -> const char * {
        const auto found = variables.find(name);
        return found == variables.end() ? nullptr : found->second.c_str();
    });
}

std::string lines(const std::vector<Problem> &problems) {
    std::string all;
    for (const Problem &problem : problems)
        all += problem.line() + "\n";
    return all;
}

/// What is wrong with the names of these variables.
std::string unknown(std::vector<const char *> entries) {
    entries.push_back(nullptr);
    return lines(load_settings([](const char *) { return nullptr; }, entries.data()).problems);
}

/// "[2001:db8::5]:5555/3 ..." with the hop limits.
std::string targets(const Settings &settings, Transport transport, std::uint16_t port) {
    std::string all;
    for (const Target &target : settings.targets_for(transport, port))
        all += (all.empty() ? "" : " ") + target.peer.text() + "/" +
               (target.hops.is_automatic() ? "auto" : std::to_string(target.hops.number()));
    return all;
}

/// "4444 5000-5010"
std::string concerned(const Settings &settings, Transport transport) {
    std::string all;
    for (const PortRange &range : settings.concerned_ports(transport)) {
        all += (all.empty() ? "" : " ") + std::to_string(range.first);
        if (range.last != range.first)
            all += "-" + std::to_string(range.last);
    }
    return all;
}

std::vector<Peer> peers(std::string_view text, std::string &problems) {
    std::vector<Problem> found;
    std::vector<Peer> result = parse_peers(text, "P", found);
    problems = lines(found);
    return result;
}

std::string problem_of(std::string_view text) {
    std::string problems;
    CHECK(peers(text, problems).empty());
    return problems;
}

/// Settings from a config file of this content; problems with "FILE" for its name.
Settings load_file(const std::string &content, Variables variables = {}) {
    const Directory directory;
    const std::string file = directory.write("synergy.toml", content);
    variables["SYNERGY_CONFIG"] = file;
    Settings settings = load(std::move(variables));
    CHECK(settings.file == file);
    for (Problem &problem : settings.problems)
        if (problem.place.starts_with(file))
            problem.place.replace(0, file.size(), "FILE");
    return settings;
}

Endpoint v4_address(const std::string &text) {
    std::string problems;
    const std::vector<Peer> found = peers(text + ":1", problems);
    REQUIRE(problems == "");
    return found.at(0).address;
}

const char *const good_peer = "[2001:db8::5]:5555";

} // namespace

TEST_CASE("bounds of the automatic hop limit") {
    CHECK(load({}).hop_bounds == HopBounds{1, 254});
    const Settings bounded = load({{"SYNERGY_HOPS_MIN", "2"}, {"SYNERGY_HOPS_MAX", "6"}});
    CHECK(bounded.problems.empty());
    CHECK(bounded.hop_bounds == HopBounds{2, 6});
    CHECK(load({{"SYNERGY_HOPS_MIN", "4"}, {"SYNERGY_HOPS_MAX", "4"}}).problems.empty());
    const Settings empty = load({{"SYNERGY_HOPS_MIN", "7"}, {"SYNERGY_HOPS_MAX", "6"}});
    CHECK(lines(empty.problems) ==
          "SYNERGY_HOPS_MAX: '6': expected a hop limit from 1 to 254, not below hops_min\n");
    CHECK(empty.hop_bounds == HopBounds{});

    const Directory directory;
    const std::string file = directory.write("s.toml", "hops_min = 3\nhops_max = 9\n");
    CHECK(load({{"SYNERGY_CONFIG", file}}).hop_bounds == HopBounds{3, 9});
    // The environment wins, one by one.
    CHECK(load({{"SYNERGY_CONFIG", file}, {"SYNERGY_HOPS_MAX", "5"}}).hop_bounds ==
          HopBounds{3, 5});
}

TEST_CASE("without settings there is nothing to do") {
    const Settings settings = load({});
    CHECK_FALSE(settings.has_peers());
    CHECK(concerned(settings, Transport::tcp) == "");
    CHECK_FALSE(settings.has_peers_on_any_port(Transport::udp));
    CHECK(settings.problems.empty());
    CHECK(settings.targets_for(Transport::tcp, 4444).empty());
    CHECK(settings.refresh == std::chrono::seconds(13));
    CHECK(settings.log == LogLevel::warn);
    CHECK(settings.log_file == "stderr");
    CHECK(settings.local_for(AF_INET6).empty());
}

TEST_CASE("peers of all forms") {
    std::string problems;
    const std::vector<Peer> list =
        peers(",, [2001:db8::5]:5555\t[2001:db8::6]:1-3,198.51.100.5:80 ,\n"
              "192.0.2.1:65534-65535 [::ffff:192.0.2.9]:7,",
              problems);
    CHECK(problems == "");
    REQUIRE(list.size() == 5);
    CHECK(list[0].address.text() == "[2001:db8::5]:0");
    CHECK(list[0].first_port == 5555);
    CHECK(list[0].last_port == 5555);
    CHECK(list[1].first_port == 1);
    CHECK(list[1].last_port == 3);
    CHECK(list[2].address.text() == "198.51.100.5:0");
    CHECK(list[3].first_port == 65534);
    CHECK(list[3].last_port == 65535);
    CHECK(list[4].address.text() == "192.0.2.9:0"); // v4-mapped is IPv4
}

TEST_CASE("no peers") {
    std::string problems;
    CHECK(peers("", problems).empty());
    CHECK(problems == "");
    CHECK(problem_of(" ,\t, ") == "P: ' ,\\x09, ': expected at least one peer, or nothing\n");
}

TEST_CASE("link-local peers have a scope") {
    std::string problems;
    const std::vector<Peer> list = peers("[fe80::1%lo]:5 [fe80::1%77]:5", problems);
    CHECK(problems == "");
    REQUIRE(list.size() == 2);
    CHECK(list[0].address.address_text() == "fe80::1%lo");
    CHECK(list[1].address.address_text() == "fe80::1%77");
    CHECK(
        problem_of("[fe80::1]:5") ==
        "P: '[fe80::1]:5': expected after a link-local address (fe80::) '%' and the interface that "
        "leads there, as fe80::5%eth0\n");

    const std::string scope = "': expected after '%' a network interface of this host\n";
    CHECK(problem_of("[fe80::1%nosuch0]:5") == "P: '[fe80::1%nosuch0]:5" + scope);
    CHECK(problem_of("[fe80::1%]:5") == "P: '[fe80::1%]:5" + scope);
    CHECK(problem_of("[fe80::1%0]:5") == "P: '[fe80::1%0]:5" + scope);
    CHECK(problem_of("[2001:db8::5%lo]:5") ==
          "P: '[2001:db8::5%lo]:5': expected no '%' but after a link-local address (fe80::)\n");
}

TEST_CASE("a wrong peer is named, and what was expected") {
    const std::string port = "': expected a port from 1 to 65535, or a range as 5000-5010\n";
    for (const std::string text :
         {"192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:", "192.0.2.1:-5", "192.0.2.1:5-",
          "192.0.2.1:0-5", "192.0.2.1:5-6-7", "192.0.2.1:+5", "192.0.2.1:5x", "192.0.2.1:0x5",
          "192.0.2.1:5:6", "192.0.2.1:http", "[2001:db8::5]:99999999999999999999", "[::2]:5]"})
        CHECK(problem_of(text) == "P: '" + text + port);
    CHECK(problem_of("192.0.2.1:6-5") ==
          "P: '192.0.2.1:6-5': expected a range whose first port is not above its last\n");

    const std::string host =
        "': expected the address of one host, neither wildcard, multicast nor broadcast\n";
    for (const std::string text : {"[::]:5", "0.0.0.0:5", "[::ffff:0.0.0.0]:5", "[ff02::1]:5",
                                   "224.0.0.1:5", "[::ffff:224.0.0.1]:5", "255.255.255.255:5"})
        CHECK(problem_of(text) == "P: '" + text + host);

    const std::string peer =
        "': expected a host and a port, as [2001:db8::5]:5555, 198.51.100.5:5555 or "
        "laptop.example.net:5555\n";
    for (const std::string text :
         {"192.0.2.1", "[2001:db8::5]", "[2001:db8::5]5555", "[::2]x:5", "host", "5555", "*:5555",
          "user@host:5555", "tcp://192.0.2.1:5555", "http://[2001:db8::5]:5555", "host:5555:tcp"})
        CHECK(problem_of(text) == "P: '" + text + peer);

    const std::string brackets = "': expected an IPv6 address in brackets, as [2001:db8::5]:5555\n";
    for (const std::string text : {"2001:db8::5", "2001:db8::5:5555", "::1", "::", "fe80::1%lo"})
        CHECK(problem_of(text) == "P: '" + text + brackets);

    const std::string names = "': expected a host name of at most 253 bytes, with 1 to 63 between "
                              "the dots and no '-' at either end\n";
    const std::string label(64, 'a');
    std::string name = "a";
    while (name.size() < 254)
        name += ".a";
    for (const std::string text :
         {"a..example:5", ".example:5", "host.example..:5", "-a.example:5", "a-.example:5"})
        CHECK(problem_of(text) == "P: '" + text + names);
    CHECK(problem_of(label + ":5") == "P: '" + label + ":5" + names);
    CHECK(problem_of(name + ":5").ends_with(names));

    const std::string inside = "': expected an IPv6 address between the brackets\n";
    for (const std::string text : {"[192.0.2.1]:5", "[]:5", "[host.example]:5", "[1::2::3]:5"})
        CHECK(problem_of(text) == "P: '" + text + inside);

    const std::string v4 = "': expected an IPv4 address as 198.51.100.5\n";
    for (const std::string text : {"192.0.2:5", "192.0.2.256:5", "192.0.2.01:5", ":5"})
        CHECK(problem_of(text) == "P: '" + text + v4);

    const std::string network =
        "': expected the address of one host: a hole is for one address, not a network\n";
    for (const std::string text : {"192.0.2.1/32:5", "[2001:db8::/64]:5", "2001:db8::/64"})
        CHECK(problem_of(text) == "P: '" + text + network);
    CHECK(problem_of("192.0.2.1:5;192.0.2.1:6") ==
          "P: '192.0.2.1:5;192.0.2.1:6': expected a comma or a space between peers\n");

    const std::string quotes = "': expected no quotation marks: they are for a shell, and here are "
                               "taken for a part of the text\n";
    for (const std::string text : {"'192.0.2.1:5'", "\"[2001:db8::5]:5\"", "`host:5`"})
        CHECK(problem_of(text) == "P: '" + text + quotes);

    const std::string plain = "': expected plain '-', quotes and spaces: one here only looks like "
                              "it (as word processors and web pages have them)\n";
    for (const std::string text : {"192.0.2.1:5\xe2\x80\x93"
                                   "6",
                                   "[2001:db8::5]:5\xe2\x88\x92"
                                   "6",
                                   "\xe2\x80\x9c"
                                   "192.0.2.1:5\xe2\x80\x9d",
                                   "\xef\xbb\xbf"
                                   "192.0.2.1:5",
                                   "192.0.2.1:5\xc2\xa0"
                                   "192.0.2.1:6",
                                   "192.0.2.1\xef\xbc\x9a"
                                   "5"})
        CHECK(problem_of(text) == "P: '" + text + plain);
    CHECK(problem_of("192.0.2.1:5/tcp")
              .ends_with("expected a port from 1 to 65535, or a range as "
                         "5000-5010\n"));

    CHECK(problem_of("[2001:db8::5:5555") ==
          "P: '[2001:db8::5:5555': expected ']' after the IPv6 address\n");
}

TEST_CASE("host names") {
    for (const std::string host : {"host.example", "localhost", "a-b_c.example.",
                                   "b\xc3\xbc.example", "x", "1and1.example"}) {
        std::string problems;
        const std::vector<Peer> found = peers(host + ":5555-5560", problems);
        CHECK(problems == "");
        REQUIRE(found.size() == 1);
        CHECK(found[0] == Peer{{}, 5555, 5560, host});
    }
}

TEST_CASE("the targets of a host name are the addresses that are known of it") {
    Settings settings = load({{"SYNERGY_PEERS", "laptop.example:5-6 192.0.2.9:7"},
                              {"SYNERGY_PORTS", "4444"},
                              {"SYNERGY_HOPS", "4"}});
    CHECK(settings.hosts() == std::set<std::string>{"laptop.example"});
    CHECK(settings.may_gain(Transport::tcp, 4444));
    CHECK_FALSE(settings.may_gain(Transport::tcp, 4445));
    CHECK(concerned(settings, Transport::tcp) == "4444");
    CHECK(targets(settings, Transport::tcp, 4444) == "192.0.2.9:7/4");
    settings.addresses["laptop.example"] = {v4_address("192.0.2.1"), v4_address("192.0.2.9")};
    CHECK(targets(settings, Transport::tcp, 4444) ==
          "192.0.2.1:5/4 192.0.2.1:6/4 192.0.2.9:5/4 192.0.2.9:6/4 192.0.2.9:7/4");
    CHECK_FALSE(load({{"SYNERGY_PEERS", "192.0.2.9:7"}}).may_gain(Transport::tcp, 4444));

    // Whatever a name server says: no more holes than a list of addresses could bring.
    settings = load({{"SYNERGY_PEERS", "laptop.example:1-4000"}});
    for (int i = 1; i < 200; i++)
        settings.addresses["laptop.example"].push_back(v4_address("192.0.2." + std::to_string(i)));
    CHECK(settings.targets_for(Transport::tcp, 4444).size() == 4096);
}

TEST_CASE("a wrong peer doesn't keep the others out") {
    std::string problems;
    CHECK(peers("192.0.2.1:5,host:,[2001:db8::5]:7", problems).size() == 2);
    CHECK(std::count(problems.begin(), problems.end(), '\n') == 1);
}

TEST_CASE("no NUL hides what follows it") {
    using namespace std::string_view_literals;
    CHECK(problem_of("192.0.2.1\0x:5"sv) ==
          "P: '192.0.2.1\\x00x:5': expected a host and a port, as [2001:db8::5]:5555, "
          "198.51.100.5:5555 or laptop.example.net:5555\n");
    CHECK(problem_of("[fe80::1%lo\0x]:5"sv) ==
          "P: '[fe80::1%lo\\x00x]:5': expected after '%' a network interface of this host\n");
}

TEST_CASE("messages are one line each, and not endless") {
    CHECK(problem_of("a\x1b[2Jb").find("'a\\x1b[2Jb'") != std::string::npos);
    const std::string problem = problem_of(std::string(100000, 'x'));
    CHECK(problem.size() < 400);
    CHECK(problem.find("xxx...'") != std::string::npos);
}

TEST_CASE("at most 4096 endpoints") {
    const std::string most = "': expected 4096 addresses and ports at most in all; what has "
                             "no room is left out\n";
    std::string problems;
    CHECK(peers("[2001:db8::5]:1-4096", problems).size() == 1);
    CHECK(problems == "");
    CHECK(problem_of("[2001:db8::5]:1-4097") == "P: '[2001:db8::5]:1-4097" + most);
    CHECK(problem_of("[2001:db8::5]:1-65535") == "P: '[2001:db8::5]:1-65535" + most);
    // What is there already takes no more room, and a peer after the one too many may fit.
    CHECK(peers("[2001:db8::5]:1-4095 [2001:db8::5]:5-4000 192.0.2.1:1-2 192.0.2.1:1", problems)
              .size() == 3);
    CHECK(problems == "P: '192.0.2.1:1-2" + most);
    // One mistake, however many there are.
    problems.clear();
    CHECK(peers("[2001:db8::5]:1-4096 192.0.2.1:1 192.0.2.1:2 192.0.2.1:3", problems).size() == 1);
    CHECK(problems == "P: '192.0.2.1:1" + most);
}

TEST_CASE("each endpoint is a target once") {
    const Settings settings =
        load({{"SYNERGY_PEERS", "192.0.2.1:1-3 192.0.2.1:2-4 192.0.2.1:1 [::ffff:192.0.2.1]:3"},
              {"SYNERGY_HOPS", "7"}});
    CHECK(lines(settings.problems) == "");
    CHECK(targets(settings, Transport::tcp, 1) ==
          "192.0.2.1:1/7 192.0.2.1:2/7 192.0.2.1:3/7 192.0.2.1:4/7");
}

TEST_CASE("a range up to the last port ends") {
    const Settings settings = load({{"SYNERGY_PEERS", "192.0.2.1:65534-65535"}});
    CHECK(targets(settings, Transport::udp, 1) == "192.0.2.1:65534/auto 192.0.2.1:65535/auto");
}

TEST_CASE("everything from the environment") {
    const Settings settings = load({{"SYNERGY_PEERS", good_peer},
                                    {"SYNERGY_HOPS", "254"},
                                    {"SYNERGY_PORTS", "4444, 5000-5010"},
                                    {"SYNERGY_LOCAL", "2001:db8::11 192.0.2.11"},
                                    {"SYNERGY_REFRESH", "3600"},
                                    {"SYNERGY_LOG", "debug"},
                                    {"SYNERGY_LOG_FILE", "syslog"}});
    CHECK(lines(settings.problems) == "");
    REQUIRE(settings.rules.size() == 1);
    CHECK(settings.rules[0].ports == std::vector<PortRange>{{4444, 4444}, {5000, 5010}});
    CHECK_FALSE(settings.rules[0].protocol);
    for (const std::uint16_t port : std::initializer_list<std::uint16_t>{4444, 5000, 5005, 5010})
        CHECK(targets(settings, Transport::sctp, port) == "[2001:db8::5]:5555/254");
    for (const std::uint16_t port : std::initializer_list<std::uint16_t>{0, 4443, 4445, 4999, 5011})
        CHECK(targets(settings, Transport::tcp, port) == "");
    CHECK(concerned(settings, Transport::tcp) == "4444 5000-5010");
    CHECK_FALSE(settings.has_peers_on_any_port(Transport::udp));
    CHECK(settings.local_for(AF_INET6).text() == "[2001:db8::11]:0");
    CHECK(settings.local_for(AF_INET).text() == "192.0.2.11:0");
    CHECK(settings.refresh == std::chrono::seconds(3600));
    CHECK(settings.log == LogLevel::debug);
    CHECK(settings.log_file == "syslog");
}

TEST_CASE("which ports are concerned, told by rules and not by trying each") {
    const auto of_file = [](const std::string &content, Transport transport) {
        return concerned(load_file(content, {{"SYNERGY_PEERS", good_peer}}), transport);
    };
    CHECK(concerned(load({{"SYNERGY_PEERS", good_peer}}), Transport::udp) == "1-65535");
    CHECK(load({{"SYNERGY_PEERS", good_peer}}).has_peers_on_any_port(Transport::udp));
    CHECK(concerned(load({{"SYNERGY_PEERS", good_peer}, {"SYNERGY_PORTS", "1 65535 80-90 85-99"}}),
                    Transport::sctp) == "1 80-99 65535");
    const std::string sections = "[[listen]]\nport = '80-90'\nprotocol = 'tcp'\n"
                                 "[[listen]]\nport = 85\nprotocol = 'udp'\n";
    CHECK(of_file(sections, Transport::tcp) == "80-90");
    CHECK(of_file(sections, Transport::udp) == "85");
    CHECK(of_file(sections, Transport::sctp) == "");
    // The first rule that matches a port counts, and may have no peers.
    CHECK(concerned(load_file("[[listen]]\nport = 85\npeers = []\n"
                              "[[listen]]\nport = '80-90'\npeers = ['192.0.2.1:1']\n",
                              {{"SYNERGY_PORTS", ""}}),
                    Transport::tcp) == "80-90"); // the file may change
    // Nothing can be relied upon.
    CHECK(concerned(load({{"SYNERGY_PEERS", good_peer}, {"SYNERGY_HOPS", "x"}}), Transport::tcp) ==
          "");
}

TEST_CASE("a text that is not UTF-8 is shown as such") {
    CHECK(problem_of("J\xe9r\xc3\xb4me:5") == "P: 'J\\xe9r\xc3\xb4me:5': expected text in UTF-8\n");
    // Overlong, a surrogate, beyond the last, cut off, and a control character of ISO 8859-1.
    for (const std::string text :
         {"\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\xc2\x9b"})
        CHECK(problem_of(text + ":5").ends_with("': expected text in UTF-8\n"));
    std::string problems;
    CHECK(peers("\xe2\x82\xac.example:5", problems).size() == 1);
}

TEST_CASE("the address that servers punch from is not the loopback interface's") {
    for (const std::string text : {"::1", "127.0.0.1", "127.9.9.9"})
        CHECK(lines(load({{"SYNERGY_LOCAL", text}}).problems) ==
              "SYNERGY_LOCAL: '" + text +
                  "': expected an address that peers can reach: who is at it is this host alone\n");
}

TEST_CASE("a log file of the server's own is none of the keeper's") {
    for (const char *text : {"/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"})
        CHECK(load({{"SYNERGY_LOG_FILE", text}}).log_file == "stderr");
    for (const std::string text : {"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/tty"}) {
        const Settings settings = load({{"SYNERGY_PEERS", good_peer}, {"SYNERGY_LOG_FILE", text}});
        CHECK(lines(settings.problems) ==
              "SYNERGY_LOG_FILE: '" + text +
                  "': expected a path that is the same for every process, stderr or syslog: the "
                  "server's own is none\n");
        CHECK(settings.log_file == "stderr");
        CHECK(targets(settings, Transport::tcp, 9) == "[2001:db8::5]:5555/auto");
    }
    CHECK(load({{"SYNERGY_LOG_FILE", "/dev/tty1"}}).log_file == "/dev/tty1");
}

TEST_CASE("what elsewhere is a name of where a log goes is no file") {
    for (const std::string text : {"stdout", "journal", "Stderr", "SYSLOG", "none", "-"}) {
        const Settings settings = load({{"SYNERGY_PEERS", good_peer}, {"SYNERGY_LOG_FILE", text}});
        CHECK(lines(settings.problems) ==
              "SYNERGY_LOG_FILE: '" + text +
                  "': expected stderr, syslog or a path (./ before the name of a file that is "
                  "called so)\n");
        CHECK(settings.log_file == "stderr");
        CHECK(load({{"SYNERGY_LOG_FILE", "./" + text}}).log_file ==
              std::filesystem::current_path() / "." / text);
    }
    CHECK(load({{"SYNERGY_LOG_FILE", "log"}}).log_file == std::filesystem::current_path() / "log");
}

TEST_CASE("white space around a value is none of it") {
    for (const std::string around : {" ", "\r", "\t", "\n", " \r\n"}) {
        const auto put = [&](const std::string &text) { return around + text + around; };
        const Settings settings = load({{"SYNERGY_PEERS", put(good_peer)},
                                        {"SYNERGY_HOPS", put("4")},
                                        {"SYNERGY_HOPS_MIN", put("2")},
                                        {"SYNERGY_HOPS_MAX", put("6")},
                                        {"SYNERGY_PORTS", put("4444")},
                                        {"SYNERGY_LOCAL", put("2001:db8::11")},
                                        {"SYNERGY_REFRESH", put("5")},
                                        {"SYNERGY_LOG", put("info")},
                                        {"SYNERGY_LOG_FILE", put("syslog")},
                                        {"SYNERGY_CONFIG", put("/dev/null")}});
        CHECK(lines(settings.problems) == "");
        CHECK(targets(settings, Transport::tcp, 4444) == "[2001:db8::5]:5555/4");
        CHECK(concerned(settings, Transport::tcp) == "4444");
        CHECK(settings.hop_bounds == HopBounds{2, 6});
        CHECK(settings.local_for(AF_INET6).address_text() == "2001:db8::11");
        CHECK(settings.refresh == std::chrono::seconds(5));
        CHECK(settings.log == LogLevel::info);
        CHECK(settings.log_file == "syslog");
        // Nothing but that is nothing, in all of them.
        CHECK(lines(load({{"SYNERGY_PEERS", around}, {"SYNERGY_HOPS", around}}).problems) == "");
    }
    const Settings file = load_file("hops = '4 '\nlog = ' info\t'\n[[listen]]\nport = ' 5-6 '\n"
                                    "protocol = 'tcp '\npeers = ' 192.0.2.1:1 '\n");
    CHECK(lines(file.problems) == "");
    CHECK(targets(file, Transport::tcp, 5) == "192.0.2.1:1/4");
    // Within a value it is no other than before.
    CHECK(lines(load({{"SYNERGY_HOPS", "1 2"}}).problems) ==
          "SYNERGY_HOPS: '1 2': expected a hop limit from 1 to 254, or auto\n");
}

TEST_CASE("a log file is the same wherever the keeper goes") {
    CHECK(load({{"SYNERGY_LOG_FILE", "a/b.log"}}).log_file ==
          std::filesystem::current_path() / "a/b.log");
    CHECK(load({{"SYNERGY_LOG_FILE", "/a/b.log"}}).log_file == "/a/b.log");
}

TEST_CASE("a variable that is empty is not set") {
    const Settings settings = load({{"SYNERGY_PEERS", good_peer},
                                    {"SYNERGY_HOPS", ""},
                                    {"SYNERGY_PORTS", ""},
                                    {"SYNERGY_LOCAL", ""},
                                    {"SYNERGY_REFRESH", ""},
                                    {"SYNERGY_LOG", ""},
                                    {"SYNERGY_LOG_FILE", ""}});
    CHECK(lines(settings.problems) == "");
    CHECK(targets(settings, Transport::tcp, 9) == "[2001:db8::5]:5555/auto");
    CHECK(settings.log_file == "stderr");
}

TEST_CASE("what would punch elsewhere or otherwise than meant stops all punching") {
    const struct {
        const char *variable;
        const char *text;
        const char *expected;
    } cases[] = {
        {"SYNERGY_HOPS", "0", "a hop limit from 1 to 254, or auto"},
        {"SYNERGY_HOPS", "255", "a hop limit from 1 to 254, or auto"},
        {"SYNERGY_HOPS", "-1", "a hop limit from 1 to 254, or auto"},
        {"SYNERGY_HOPS", "Auto", "a hop limit from 1 to 254, or auto"},
        {"SYNERGY_HOPS", "99999999999", "a hop limit from 1 to 254, or auto"},
        {"SYNERGY_HOPS_MIN", "0", "a hop limit from 1 to 254"},
        {"SYNERGY_HOPS_MIN", "auto", "a hop limit from 1 to 254"},
        {"SYNERGY_HOPS_MAX", "255", "a hop limit from 1 to 254"},
        {"SYNERGY_HOPS_MAX", "4x", "a hop limit from 1 to 254"},
        {"SYNERGY_PORTS", "0", "a port from 1 to 65535, or a range as 5000-5010"},
        {"SYNERGY_PORTS", "http", "a port from 1 to 65535, or a range as 5000-5010"},
        {"SYNERGY_PORTS", "6-5", "a range whose first port is not above its last"},
        {"SYNERGY_PORTS", ",", "at least one port"},
        {"SYNERGY_LOCAL", "host", "an address without port, as 2001:db8::11 or 198.51.100.11"},
        {"SYNERGY_LOCAL", "[::2]:5", "an address without port, as 2001:db8::11 or 198.51.100.11"},
        {"SYNERGY_LOCAL", "192.0.2.1:5",
         "an address without port, as 2001:db8::11 or 198.51.100.11"},
        {"SYNERGY_LOCAL",
         "::", "the address of one host, neither wildcard, multicast nor broadcast"},
        {"SYNERGY_LOCAL", "fe80::1%nosuch0", "after '%' a network interface of this host"},
        {"SYNERGY_LOCAL", "fe80::1",
         "after a link-local address (fe80::) '%' and the interface that leads there, as "
         "fe80::5%eth0"},
        {"SYNERGY_REFRESH", "0", "whole seconds from 1 to 3600"},
        {"SYNERGY_REFRESH", "3601", "whole seconds from 1 to 3600"},
        {"SYNERGY_REFRESH", "1.5", "whole seconds from 1 to 3600"},
        {"SYNERGY_REFRESH", "20s", "whole seconds from 1 to 3600"},
    };
    for (const auto &each : cases) {
        const Settings settings = load({{"SYNERGY_PEERS", good_peer}, {each.variable, each.text}});
        CHECK(lines(settings.problems) == std::string(each.variable) + ": '" + each.text +
                                              "': expected " + each.expected + "\n");
        CHECK(settings.rules.empty());
    }
}

TEST_CASE("a port that is wrong among others stops all punching too") {
    const Settings settings =
        load({{"SYNERGY_PEERS", good_peer}, {"SYNERGY_PORTS", "4444 x 5000"}});
    CHECK(lines(settings.problems) ==
          "SYNERGY_PORTS: 'x': expected a port from 1 to 65535, or a range as 5000-5010\n");
    CHECK(settings.rules.empty());
}

TEST_CASE("a log setting that is wrong doesn't stop punching") {
    const Settings settings = load({{"SYNERGY_PEERS", good_peer}, {"SYNERGY_LOG", "loud"}});
    CHECK(lines(settings.problems) ==
          "SYNERGY_LOG: 'loud': expected debug, info, warn, error or off\n");
    CHECK(settings.log == LogLevel::warn);
    CHECK(settings.rules.size() == 1);
}

TEST_CASE("log levels") {
    CHECK(load({{"SYNERGY_LOG", "info"}}).log == LogLevel::info);
    CHECK(load({{"SYNERGY_LOG", "warn"}}).log == LogLevel::warn);
    CHECK(load({{"SYNERGY_LOG", "error"}}).log == LogLevel::error);
    CHECK(load({{"SYNERGY_LOG", "off"}}).log == LogLevel::off);
    CHECK(load({{"SYNERGY_LOG_FILE", "/var/log/s y.log"}}).log_file == "/var/log/s y.log");
}

TEST_CASE("source addresses") {
    const Settings settings = load({{"SYNERGY_LOCAL", "[2001:db8::11], 192.0.2.11"}});
    CHECK(lines(settings.problems) == "");
    CHECK(settings.local_for(AF_INET6).address_text() == "2001:db8::11");
    CHECK(load({{"SYNERGY_LOCAL", "::ffff:192.0.2.11"}}).local_for(AF_INET).text() ==
          "192.0.2.11:0");
    CHECK(lines(load({{"SYNERGY_LOCAL", "192.0.2.11 192.0.2.12"}}).problems) ==
          "SYNERGY_LOCAL: '192.0.2.12': expected one IPv6 and one IPv4 address at most\n");
}

TEST_CASE("everything from the file") {
    const Settings settings = load_file(R"(
peers = ["[2001:db8::5]:5555", "198.51.100.5:1-2, 198.51.100.6:3"]
hops = 4
local = ["2001:db8::11", "192.0.2.11"]
refresh = 10
log = "error"
log_file = "/tmp/x.log"
)");
    CHECK(lines(settings.problems) == "");
    CHECK(targets(settings, Transport::udp, 1) ==
          "[2001:db8::5]:5555/4 198.51.100.5:1/4 198.51.100.5:2/4 198.51.100.6:3/4");
    CHECK(settings.local.size() == 2);
    CHECK(settings.refresh == std::chrono::seconds(10));
    CHECK(settings.log == LogLevel::error);
    CHECK(settings.log_file == "/tmp/x.log");
}

TEST_CASE("a list of one may be written without brackets") {
    const Settings settings =
        load_file("peers = '192.0.2.1:5'\nlocal = '192.0.2.11'\nhops = 'auto'\n");
    CHECK(lines(settings.problems) == "");
    CHECK(targets(settings, Transport::udp, 1) == "192.0.2.1:5/auto");
    CHECK(settings.local.size() == 1);
}

namespace {

const char *const sections = R"(
peers = ["192.0.2.1:1"]
hops = 9

[[listen]]
port = 4444
protocol = "udp"
peers = ["192.0.2.2:2"]
hops = 2

[[listen]]
port = ["4444,5000-5010", 80]

[[listen]]
port = "5010-6000"
hops = "auto"
)";

} // namespace

TEST_CASE("sections: the first that fits counts, what it lacks is taken from above") {
    const Settings settings = load_file(sections);
    CHECK(lines(settings.problems) == "");
    CHECK(targets(settings, Transport::udp, 4444) == "192.0.2.2:2/2");
    CHECK(targets(settings, Transport::tcp, 4444) == "192.0.2.1:1/9");
    CHECK(targets(settings, Transport::udp, 80) == "192.0.2.1:1/9");
    CHECK(targets(settings, Transport::tcp, 5010) == "192.0.2.1:1/9");
    CHECK(targets(settings, Transport::tcp, 5011) == "192.0.2.1:1/auto");
    CHECK(targets(settings, Transport::tcp, 81) == "");
}

TEST_CASE("the environment wins over the file") {
    const Settings by_peers = load_file(sections, {{"SYNERGY_PEERS", "192.0.2.3:3"}});
    CHECK(targets(by_peers, Transport::udp, 4444) == "192.0.2.3:3/2");
    CHECK(targets(by_peers, Transport::tcp, 5011) == "192.0.2.3:3/auto");
    CHECK(targets(by_peers, Transport::tcp, 81) == "");

    const Settings by_hops = load_file(sections, {{"SYNERGY_HOPS", "5"}});
    CHECK(targets(by_hops, Transport::udp, 4444) == "192.0.2.2:2/5");
    CHECK(targets(by_hops, Transport::tcp, 5011) == "192.0.2.1:1/5");

    const Settings by_ports = load_file(sections, {{"SYNERGY_PORTS", "81"}});
    CHECK(by_ports.rules.size() == 1);
    CHECK(targets(by_ports, Transport::udp, 81) == "192.0.2.1:1/9");
    CHECK(targets(by_ports, Transport::udp, 4444) == "");

    const Settings others =
        load_file("refresh = 5\nlocal = '192.0.2.1'\nlog = 'off'\nlog_file = '/x'\n",
                  {{"SYNERGY_REFRESH", "6"},
                   {"SYNERGY_LOCAL", "2001:db8::1"},
                   {"SYNERGY_LOG", "info"},
                   {"SYNERGY_LOG_FILE", "/y"}});
    CHECK(others.refresh == std::chrono::seconds(6));
    CHECK(others.local_for(AF_INET).empty());
    CHECK(others.local_for(AF_INET6).address_text() == "2001:db8::1");
    CHECK(others.log == LogLevel::info);
    CHECK(others.log_file == "/y");
}

TEST_CASE("peers of the environment that are all wrong don't bring those of the file back") {
    const Settings settings = load_file("peers = ['192.0.2.1:1']", {{"SYNERGY_PEERS", "host:"}});
    CHECK(settings.problems.size() == 1);
    CHECK_FALSE(settings.has_peers());
    CHECK_FALSE(settings.follows_file);
}

TEST_CASE("a section may be without peers") {
    const Settings settings = load_file("peers = ['192.0.2.1:1']\n"
                                        "[[listen]]\nport = 80\npeers = []\n"
                                        "[[listen]]\nport = '1-65535'\n");
    CHECK(lines(settings.problems) == "");
    CHECK(targets(settings, Transport::tcp, 80) == "");
    CHECK(targets(settings, Transport::tcp, 81) == "192.0.2.1:1/auto");
}

TEST_CASE("mistakes in the file are named by line and column") {
    const struct {
        const char *content;
        const char *line;
        bool punches;
    } cases[] = {
        {"peers = ['192.0.2.1:1', 'host:x']",
         "FILE:1:25: 'host:x': expected a port from 1 to 65535, or a range as 5000-5010", true},
        {"peers = ['192.0.2.1:1', 5]",
         "FILE:1:25: '5': expected a host and a port, as [2001:db8::5]:5555, 198.51.100.5:5555 or "
         "laptop.example.net:5555",
         true},
        {"peers = ['192.0.2.1:1', [1, 2]]",
         "FILE:1:25: '[1, 2]': expected a host and a port, as [2001:db8::5]:5555, "
         "198.51.100.5:5555 or laptop.example.net:5555",
         true},
        {"peers = ['192.0.2.1:1']\nhops = 300",
         "FILE:2:8: '300': expected a hop limit from 1 to 254, or auto", false},
        {"peers = ['192.0.2.1:1']\nhops = 3.5 # \xc3\xbc",
         "FILE:2:8: '3.5': expected a hop limit from 1 to 254, or auto", false},
        {"# \xc3\xbc\npeers = ['192.0.2.1:1']\n\nhops = [3]",
         "FILE:4:8: '[3]': expected a hop limit from 1 to 254, or auto", false},
        {"peers = ['192.0.2.1:1']\nhops_min = 0",
         "FILE:2:12: '0': expected a hop limit from 1 to 254", false},
        {"peers = ['192.0.2.1:1']\nhops_max = 'auto'",
         "FILE:2:12: 'auto': expected a hop limit from 1 to 254", false},
        {"peers = ['192.0.2.1:1']\nhops_min = 5\nhops_max = 4",
         "FILE:3:12: '4': expected a hop limit from 1 to 254, not below hops_min", false},
        {"peers = ['192.0.2.1:1']\nrefresh = true",
         "FILE:2:11: 'true': expected whole seconds from 1 to 3600", false},
        {"peers = ['192.0.2.1:1']\nlocal = [1979-05-27]",
         "FILE:2:10: '1979-05-27': expected an address without port, as 2001:db8::11 or "
         "198.51.100.11",
         false},
        {"peers = ['192.0.2.1:1']\nlog = 3",
         "FILE:2:7: '3': expected debug, info, warn, error or off", true},
        {"peers = ['192.0.2.1:1']\nlog_file = false",
         "FILE:2:12: 'false': expected a path, stderr or syslog", true},
        {"peers = ['192.0.2.1:1']\nlog_file = \"a\\u0000b\"",
         "FILE:2:12: 'a\\x00b': expected a path, stderr or syslog", true},
        {"peers = ['192.0.2.1:1']\nhop = 3",
         "FILE:2:1: 'hop': expected one of the keys peers, hops, hops_min, hops_max, local, "
         "refresh, log, log_file, "
         "listen",
         false},
        {"peers = ['192.0.2.1:1']\n[other]\nhops = 300",
         "FILE:2:2: 'other': expected one of the keys peers, hops, hops_min, hops_max, local, "
         "refresh, log, log_file, "
         "listen",
         false},
        {"peers = ['192.0.2.1:1']\n[[listen]]\nport = 1\nprot = 'tcp'",
         "FILE:4:1: 'prot': expected one of the keys port, protocol, peers, hops", false},
        {"peers = ['192.0.2.1:1']\n[[listen]]\nport = 70000",
         "FILE:3:8: '70000': expected a port from 1 to 65535, or a range as 5000-5010", false},
        {"peers = ['192.0.2.1:1']\n[[listen]]\nport = [1, true]",
         "FILE:3:12: 'true': expected a port from 1 to 65535, or a range as 5000-5010", false},
        {"peers = ['192.0.2.1:1']\n[[listen]]\nport = ['1', '']",
         "FILE:3:14: '': expected at least one port", false},
        {"peers = ['192.0.2.1:1']\n[[listen]]\nport = []",
         "FILE:3:8: '[]': expected at least one port: port = 4444, \"5000-5010\" or an array of "
         "those",
         false},
        {"peers = ['192.0.2.1:1']\n[[listen]]\nhops = 3",
         "FILE:2:1: '[[listen]]': expected at least one port: port = 4444, \"5000-5010\" or an "
         "array of those",
         false},
        {"peers = ['192.0.2.1:1']\n[[listen]]\nport = 1\nprotocol = 'dccp'",
         "FILE:4:12: 'dccp': expected tcp, udp or sctp", false},
        {"peers = ['192.0.2.1:1']\n[[listen]]\nport = 1\nhops = 0",
         "FILE:4:8: '0': expected a hop limit from 1 to 254, or auto", false},
        {"peers = ['192.0.2.1:1']\n[listen]\nport = 1",
         "FILE:2:1: '[listen]': expected sections that begin with [[listen]]", false},
        {"peers = ['192.0.2.1:1']\nlisten = 4444",
         "FILE:2:10: '4444': expected sections that begin with [[listen]]", false},
        {"peers = ['192.0.2.1:1']\nlisten = [4444]",
         "FILE:2:11: '4444': expected sections that begin with [[listen]]", false},
    };
    for (const auto &each : cases) {
        const Settings settings = load_file(each.content);
        CHECK(lines(settings.problems) == std::string(each.line) + "\n");
        CHECK(settings.rules.empty() == !each.punches);
    }
}

TEST_CASE("a [[listen]] section whose ports an earlier one has is named, and punches for nobody") {
    const auto said = [](const std::string &second) {
        const Settings settings =
            load_file("[[listen]]\nport = [4444, '5000-5010']\nprotocol = 'tcp'\npeers = "
                      "'192.0.2.1:1'\n[[listen]]\npeers = '192.0.2.2:2'\n" +
                      second);
        return targets(settings, Transport::tcp, 4444) + " " +
               targets(settings, Transport::tcp, 80) + " " +
               targets(settings, Transport::udp, 4444) + " " +
               (settings.hosts().empty() && settings.rules.size() == 1 ? "alone" : "both") + "\n" +
               lines(settings.problems);
    };
    const std::string expected = "': expected ports that no earlier [[listen]] section has: of two "
                                 "that fit, the first counts\n";
    CHECK(said("port = 4444\nprotocol = 'tcp'") ==
          "192.0.2.1:1/auto   alone\nFILE:7:8: '4444" + expected);
    CHECK(said("port = '5001-5002'\nprotocol = 'tcp'") ==
          "192.0.2.1:1/auto   alone\nFILE:7:8: '5001-5002" + expected);
    // The rest of it counts.
    CHECK(said("port = [80, 4444]\nprotocol = 'tcp'") ==
          "192.0.2.1:1/auto 192.0.2.2:2/auto  both\nFILE:7:13: '4444" + expected);
    // It is for another transport as well, or for more ports.
    CHECK(said("port = 4444") == "192.0.2.1:1/auto  192.0.2.2:2/auto both\n");
    CHECK(said("port = 4444\nprotocol = 'udp'") == "192.0.2.1:1/auto  192.0.2.2:2/auto both\n");
    CHECK(said("port = '80-4444'\nprotocol = 'tcp'") ==
          "192.0.2.1:1/auto 192.0.2.2:2/auto  both\n");
}

TEST_CASE("a file that is no TOML stops all punching") {
    for (const char *content : {"hops == 3", "hops = 3\nhops = 4", "peers = [", "\xff", "="}) {
        const Settings settings = load_file(content, {{"SYNERGY_PEERS", good_peer}});
        REQUIRE(settings.problems.size() == 1);
        CHECK(settings.problems[0].place.starts_with("FILE:"));
        CHECK(settings.problems[0].expected.starts_with("valid TOML: "));
        CHECK(settings.rules.empty());
    }
    using namespace std::string_literals;
    for (const std::string &content : {"\xff\xfep\0"s, "\xfe\xff\0p"s, "p\0e\0"s}) {
        const Settings settings = load_file(content, {{"SYNERGY_PEERS", good_peer}});
        REQUIRE(settings.problems.size() == 1);
        CHECK(settings.problems[0].place == "SYNERGY_CONFIG");
        CHECK(settings.problems[0].expected == "a file that can be read: it is not text in UTF-8, "
                                               "but in UTF-16, as it seems");
        CHECK(settings.rules.empty());
    }
    // A stray byte is named where it is.
    const Settings stray = load_file("hops = 3\n\0\n"s, {{"SYNERGY_PEERS", good_peer}});
    REQUIRE(stray.problems.size() == 1);
    CHECK(stray.problems[0].place == "FILE:2:1");
    CHECK(stray.problems[0].expected.starts_with("valid TOML: "));
    CHECK(load_file("peers = [\"192.0.2.1:1]\n")
              .problems.at(0)
              .line()
              .ends_with(": 'peers = [\"192.0.2.1:1]': expected valid TOML, in which a quotation "
                         "mark closes what another one opens"));
    CHECK(load_file("peers = [\xe2\x80\x9c"
                    "192.0.2.1:1\xe2\x80\x9d]\n")
              .problems.at(0)
              .expected.starts_with("valid TOML, with plain '-', quotes and spaces"));
    for (const std::string content : {"peers = [[2001:db8::5]:5555]", "peers = 198.51.100.5:5555",
                                      "hops = auto", "SYNERGY_PEERS=[2001:db8::5]:5555"}) {
        const Settings settings = load_file(content + "\n");
        REQUIRE(settings.problems.size() == 1);
        CHECK(settings.problems[0].line().ends_with(
            ": '" + content + "': expected valid TOML, in which text stands in quotation marks"));
    }
    const Settings settings = load_file("# \n  hops = = 3\n");
    CHECK(settings.problems.at(0).text == "  hops = = 3");
    CHECK(settings.problems.at(0).place.starts_with("FILE:2:"));
}

TEST_CASE("what toml++ 3.3 takes for impossible") {
    for (const char *letter : {"\xc3\xbc", "\xef\xbb\xb7", "\xd8\xa7"}) {
        const Settings key = load_file(std::string("gr") + letter + "n = 3\n");
        REQUIRE(key.problems.size() == 1);
        CHECK(key.problems[0].place.starts_with("FILE:1:"));
        const Settings text = load_file(std::string("log_file = \"\"\"\\\n") + letter + "\"\"\"\n");
        CHECK(lines(text.problems) == "");
        CHECK(text.log_file == std::filesystem::current_path() / letter);
    }
    for (const char *line : {"[[[listen]]]", "[[=", "[[ ]]", "[[[["}) {
        for (const char *rest : {"", "\n", "\nport = 4444\n[[listen]]\n"}) {
            const Settings settings = load_file(std::string("# one\n\n") + line + rest);
            REQUIRE(settings.problems.size() == 1);
            CHECK(settings.problems[0].place.starts_with("FILE:3:"));
            CHECK(settings.problems[0].text == line);
            CHECK(settings.problems[0].expected.starts_with("valid TOML"));
        }
    }
}

TEST_CASE("a file of any depth is read without harm") {
    CHECK(load_file("peers = " + std::string(100000, '[')).problems.size() == 1);
    CHECK(load_file("peers = " + std::string(200, '[') + std::string(200, ']')).rules.empty());
}

TEST_CASE("a named file that can't be read stops all punching") {
    const Directory directory;
    const auto problem = [](const std::string &file) {
        const Settings settings = load({{"SYNERGY_PEERS", good_peer}, {"SYNERGY_CONFIG", file}});
        CHECK(settings.rules.empty());
        CHECK(settings.file == file);
        return lines(settings.problems);
    };
    const auto expected = [](const std::string &file, const char *error) {
        return "SYNERGY_CONFIG: '" + file + "': expected a file that can be read: " + error + "\n";
    };
    const std::string missing = directory.path("missing");
    CHECK(problem(missing) == expected(missing, "No such file or directory"));
    CHECK(problem(directory.path("")) == expected(directory.path(""), "Is a directory"));
    const std::string pipe = directory.path("pipe");
    REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
    CHECK(problem(pipe) == expected(pipe, "it is a pipe"));
    CHECK(problem("/dev/zero") == expected("/dev/zero", "File too large"));
    if (geteuid() != 0) {
        const std::string secret = directory.write("secret", "hops = 3");
        REQUIRE(chmod(secret.c_str(), 0) == 0);
        CHECK(problem(secret) == expected(secret, "Permission denied"));
    }
}

TEST_CASE("the first config file that exists is the one") {
    const Directory directory;
    const std::string in_home = directory.path("home/.config/synergy/synergy.toml");
    const std::string in_xdg = directory.path("xdg/synergy/synergy.toml");
    const std::string system = SYNERGY_SYSCONFDIR "/synergy/synergy.toml";
    Variables variables{{"HOME", directory.path("home")}};
    const auto places = [&] {
        return config_places([&](const char *name) -> const char * {
            const auto found = variables.find(name);
            return found == variables.end() ? nullptr : found->second.c_str();
        });
    };
    CHECK(places() == std::vector<std::string>{in_home, system});
    if (!std::filesystem::exists(system))
        CHECK(load(variables).file.empty());

    directory.write("home/.config/synergy/synergy.toml", "hops = 1");
    directory.write("xdg/synergy/synergy.toml", "hops = 2");
    CHECK(load(variables).file == in_home);
    variables["XDG_CONFIG_HOME"] = "";
    CHECK(load(variables).file == in_home);
    variables["XDG_CONFIG_HOME"] = "relative"; // is to be ignored (XDG Base Directory)
    CHECK(load(variables).file == in_home);
    variables["XDG_CONFIG_HOME"] = directory.path("xdg");
    CHECK(load(variables).file == in_xdg);
    CHECK(places() == std::vector<std::string>{in_xdg, system});
    variables["SYNERGY_CONFIG"] = "";
    CHECK(load(variables).file == in_xdg);
    variables["SYNERGY_CONFIG"] = directory.write("named", "hops = 3");
    CHECK(load(variables).file == directory.path("named"));

    variables = {{"HOME", "relative"}};
    CHECK(places() == std::vector<std::string>{system});
}

TEST_CASE("root does not follow a config file that somebody else can change" *
          doctest::skip(::geteuid() != 0)) {
    constexpr uid_t other = 65534;
    const Directory directory;
    const std::string home = directory.path("home");
    const std::string file = directory.write("home/.config/synergy/synergy.toml",
                                             "peers = \"192.0.2.1:5\"\nlog_file = \"/tmp/his\"\n");
    Variables variables{{"HOME", home}};
    REQUIRE(load(variables).file == file);
    const auto is_followed = [&] {
        const Settings settings = load(variables);
        CHECK(settings.has_peers() == (settings.file == file));
        CHECK((settings.log_file == "/tmp/his") == (settings.file == file));
        CHECK(settings.is_sound);
        CHECK(settings.problems.size() == (settings.file == file ? 0 : 1));
        return settings.file == file;
    };

    // His home, a directory or the file in it, or a link.
    for (const char *part :
         {"home", "home/.config", "home/.config/synergy", "home/.config/synergy/synergy.toml"}) {
        REQUIRE(::chown(directory.path(part).c_str(), other, other) == 0);
        CHECK_FALSE(is_followed());
        REQUIRE(::chown(directory.path(part).c_str(), 0, 0) == 0);
        CHECK(is_followed());
    }
    std::filesystem::rename(directory.path("home/.config"), directory.path("config"));
    std::filesystem::create_directory_symlink(directory.path("config"),
                                              directory.path("home/.config"));
    CHECK(is_followed());
    REQUIRE(::lchown(directory.path("home/.config").c_str(), other, other) == 0);
    CHECK_FALSE(is_followed());
    REQUIRE(::lchown(directory.path("home/.config").c_str(), 0, 0) == 0);

    // Or he may write there.
    for (const mode_t mode : {0757U, 0666U})
        for (const std::string &part : {home, file}) {
            REQUIRE(::chmod(part.c_str(), mode) == 0);
            CHECK_FALSE(is_followed());
            REQUIRE(::chmod(part.c_str(), 0755) == 0);
        }
    REQUIRE(::chmod(home.c_str(), 01777) == 0); // where what is root's stays
    CHECK(is_followed());

    REQUIRE(::chown(home.c_str(), other, other) == 0);
    variables["XDG_CONFIG_HOME"] = directory.path("home/.config");
    CHECK_FALSE(is_followed());
    CHECK(lines(load(variables).problems) ==
          "config file: '" + file +
              "': expected a file that nobody but root can change: SYNERGY_CONFIG must name this "
              "one if it is to count\n");
    variables["SYNERGY_CONFIG"] = file;
    CHECK(is_followed());
}

TEST_CASE("a default config file that exists and can't be read stops all punching") {
    const Directory directory;
    const std::string file = directory.path(".config/synergy/synergy.toml");
    std::filesystem::create_directories(file); // a directory can't be read, by root either
    const Settings settings = load({{"HOME", directory.path("")}, {"SYNERGY_PEERS", good_peer}});
    CHECK(lines(settings.problems) ==
          "config file: '" + directory.path("") +
              "/.config/synergy/synergy.toml': expected a file that can be read: Is a directory\n");
    CHECK(settings.rules.empty());
}

namespace {

/// Small damage of the kind that people and editors do.
std::string mutate(std::string text, std::mt19937 &random) {
    static const char *const pieces[] = {
        "[",  "]",  ":", "::", "-", ",",     " ",  "%", "=",    "\"",   "'",           "\n",
        "[[", "]]", "{", "}",  "0", "65536", "\\", "#", "\xff", "\x7f", "99999999999", "."};
    const auto below = [&](std::size_t bound) {
        return bound == 0 ? 0 : static_cast<std::size_t>(random()) % bound;
    };
    for (std::size_t i = below(4) + 1; i > 0; --i) {
        const std::size_t at = below(text.size() + 1);
        switch (below(5)) {
        case 0:
            text.erase(at, below(6));
            break;
        case 1:
            text.insert(at, pieces[below(std::size(pieces))]);
            break;
        case 2:
            text.insert(at, 1, static_cast<char>(random() & 0xffU));
            break;
        case 3:
            text.insert(at, text.substr(below(text.size() + 1), below(20)));
            break;
        default:
            if (at < text.size())
                text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        }
    }
    return text;
}

void check_sound(const std::vector<Peer> &list) {
    std::size_t wrong = 0;
    for (const Peer &peer : list) {
        wrong += peer.address.empty() == peer.host.empty();
        wrong += peer.address.is_wildcard() || peer.address.is_multicast();
        wrong += peer.address.is_v4_mapped() || peer.address.port() != 0;
        wrong += peer.first_port == 0 || peer.first_port > peer.last_port;
    }
    CHECK(wrong == 0);
}

void check_sound(const Settings &settings) {
    for (const Rule &rule : settings.rules) {
        check_sound(rule.peers);
        if (!rule.hops.is_automatic())
            CHECK(HopLimit::from(rule.hops.number()) == rule.hops);
    }
    CHECK(settings.targets_for(Transport::tcp, 4444).size() <= 4096);
    CHECK(settings.local.size() <= 2);
    CHECK(settings.refresh >= std::chrono::seconds(1));
    for (const Problem &problem : settings.problems)
        CHECK(problem.line().find('\n') == std::string::npos);
}

} // namespace

namespace {

/// A config directory that changes, and the settings as they are read from it again and again.
class Edited {
  public:
    explicit Edited(const std::string &content, Variables variables = {}) {
        variables["SYNERGY_CONFIG"] = write("synergy.toml", content);
        settings = load(variables);
    }
    std::string write(const std::string &name, const std::string &content) {
        return directory_.write(name, content);
    }
    void link(const std::string &name, const std::string &to) {
        std::filesystem::create_symlink(to, directory_.path(name));
    }
    void remove(const std::string &name) { std::filesystem::remove_all(directory_.path(name)); }
    /// What is punched for TCP port 4444, and the problems, with "DIR" for the directory.
    std::string reload() {
        settings = reload_settings(settings);
        return now();
    }
    [[nodiscard]] std::string now() const {
        std::string all = targets(settings, Transport::tcp, 4444);
        for (const Problem &problem : settings.problems) {
            std::string line = problem.line();
            for (std::size_t at; (at = line.find(directory_.path("."))) != std::string::npos;)
                line.replace(at, directory_.path(".").size() - 1, "DIR/");
            const std::string path = directory_.path("");
            for (std::size_t at; (at = line.find(path)) != std::string::npos;)
                line.replace(at, path.size(), "DIR/");
            all += "\n" + line;
        }
        return all;
    }

    Settings settings;

  private:
    Directory directory_;
};

} // namespace

TEST_CASE("peers.d: what stands there is added, in the order of the names") {
    Edited edited("peers = ['192.0.2.1:1']\nhops = 5\n");
    CHECK(edited.settings.follows_file);
    CHECK(edited.now() == "192.0.2.1:1/5");
    edited.write("peers.d/b.toml", "peers = ['192.0.2.3:1']\nhops = 7");
    edited.write("peers.d/a.toml", "peers = '192.0.2.2:1, 192.0.2.1:1'");
    edited.write("peers.d/.c.toml", "peers = '192.0.2.4:1'");
    edited.write("peers.d/c.toml~", "peers = '192.0.2.4:1'");
    edited.write("peers.d/d.toml/e.toml", "peers = '192.0.2.4:1'");
    CHECK(edited.reload().starts_with("192.0.2.1:1/5 192.0.2.2:1/5 192.0.2.3:1/7\n"
                                      "DIR/peers.d: 'DIR/peers.d/d.toml': expected a file that can "
                                      "be read: Is a directory"));
    edited.remove("peers.d/d.toml");
    CHECK(edited.reload() == "192.0.2.1:1/5 192.0.2.2:1/5 192.0.2.3:1/7");
    edited.remove("peers.d/a.toml");
    CHECK(edited.reload() == "192.0.2.1:1/5 192.0.2.3:1/7");
    edited.remove("peers.d");
    CHECK(edited.reload() == "192.0.2.1:1/5");
}

TEST_CASE("peers.d: ports and protocols") {
    Edited edited("hops = 5\n[[listen]]\nport = 4444\nprotocol = 'tcp'\nhops = 6");
    CHECK(edited.now() == "");
    edited.write("peers.d/a.toml", "peers = ['192.0.2.2:1']");
    edited.write("peers.d/b.toml", "peers = ['192.0.2.3:1']\nport = '80-81'\nprotocol = 'udp'");
    edited.reload();
    // Without a port: what there are sections for.
    CHECK(targets(edited.settings, Transport::tcp, 4444) == "192.0.2.2:1/6");
    CHECK(targets(edited.settings, Transport::udp, 4444) == "");
    CHECK(targets(edited.settings, Transport::udp, 80) == "192.0.2.3:1/5");
    CHECK(targets(edited.settings, Transport::tcp, 80) == "");
    CHECK(targets(edited.settings, Transport::udp, 82) == "");
    // Whatever the ports are, a later edit may name them.
    CHECK(edited.settings.may_gain(Transport::sctp, 9));
    CHECK(concerned(edited.settings, Transport::sctp) == "1-65535");
}

TEST_CASE("peers.d: files of which nothing counts are known") {
    Edited edited("");
    const auto passed_over = [&] {
        edited.reload();
        std::string all;
        for (const PassedOver &file : edited.settings.passed_over)
            all += file.path.substr(file.path.find_last_of('/') + 1) +
                   (file.is_mistake ? "! " : " ") + file.why + "\n";
        return all;
    };
    edited.write("peers.d/a.toml", "peers = ['192.0.2.2:1']");
    edited.write("peers.d/.b", "");
    edited.write("peers.d/old/c.toml", "");
    CHECK(passed_over().empty());
    edited.write("peers.d/UPPER.TOML", "peers = ['192.0.2.3:1']");
    edited.write("peers.d/d.toml~", "peers = ['192.0.2.3:1']");
    edited.write("peers.d/e.toml", "peers = []");
    edited.write("peers.d/f.toml", "port = 4444");
    edited.write("peers.d/g", "");
    CHECK(passed_over() == "e.toml its `peers` are none\nf.toml! it has no `peers`\n"
                           "UPPER.TOML! its name does not end in .toml, in small letters\n"
                           "d.toml~ its name does not end in .toml\n"
                           "g its name does not end in .toml\n");
    CHECK(edited.settings.problems.empty());
    edited.remove("peers.d");
    CHECK(passed_over().empty());
}

TEST_CASE("peers.d: a file with a mistake is none, and doesn't keep the others out") {
    Edited edited("peers = ['192.0.2.1:1']");
    edited.write("peers.d/a.toml", "peers = ['192.0.2.2:1', '192.0.2.3:x']");
    edited.write("peers.d/b.toml", "peers = ['192.0.2.4:1'");
    edited.write("peers.d/c.toml", "peers = ['192.0.2.5:1']\nport = 0");
    edited.write("peers.d/d.toml", "peers = ['192.0.2.6:1']\npeer = 0");
    edited.write("peers.d/e.toml", "peers = ['192.0.2.7:1']");
    const std::string said = edited.reload();
    CHECK(said.starts_with(
        "192.0.2.1:1/auto 192.0.2.7:1/auto\nDIR/peers.d/a.toml:1:25: '192.0.2.3:x': "));
    CHECK(said.find("DIR/peers.d/b.toml:1:") != std::string::npos);
    CHECK(said.find("DIR/peers.d/c.toml:2:8: '0': expected a port") != std::string::npos);
    CHECK(said.find("DIR/peers.d/d.toml:2:1: 'peer': expected one of the keys port, protocol, "
                    "peers, hops") != std::string::npos);

    edited.write("peers.d/a.toml", "peers = ['192.0.2.2:1', '192.0.2.3:3']");
    for (const char *name : {"b", "c", "d"})
        edited.remove(std::string("peers.d/") + name + ".toml");
    CHECK(edited.reload() == "192.0.2.1:1/auto 192.0.2.2:1/auto 192.0.2.3:3/auto 192.0.2.7:1/auto");
    // What was right once stays until it is right again, or gone.
    edited.write("peers.d/a.toml", "peers = ['192.0.2.2:1', '192.0.2.3:y']");
    CHECK(edited.reload().starts_with("192.0.2.1:1/auto 192.0.2.2:1/auto 192.0.2.3:3/auto "
                                      "192.0.2.7:1/auto\nDIR/peers.d/a.toml:1:25: "));
    edited.remove("peers.d/a.toml");
    CHECK(edited.reload() == "192.0.2.1:1/auto 192.0.2.7:1/auto");
}

TEST_CASE("peers.d: nothing is punched for its peers either where a setting is wrong") {
    for (const Variables &wrong : {Variables{{"SYNERGY_HOPS_MAX", "l0"}}, Variables{}}) {
        Edited edited(wrong.empty() ? "local = 'x'" : "", wrong);
        edited.write("peers.d/a.toml", "peers = ['192.0.2.2:1']\nport = 4444");
        CHECK(edited.reload().starts_with("\n"));
        edited.write("synergy.toml", "");
        CHECK(edited.reload().starts_with(wrong.empty() ? "192.0.2.2:1/auto" : "\n"));
    }
}

TEST_CASE("peers.d: where it can't be read, what was in it stays") {
    Edited edited("peers = ['192.0.2.1:1']");
    edited.write("peers.d/a.toml", "peers = ['192.0.2.2:1']");
    CHECK(edited.reload() == "192.0.2.1:1/auto 192.0.2.2:1/auto");
    edited.remove("peers.d");
    edited.link("peers.d", "peers.d"); // to itself
    CHECK(edited.reload() == "192.0.2.1:1/auto 192.0.2.2:1/auto\nconfig directory: 'DIR/peers.d': "
                             "expected a directory that "
                             "can be read: Too many levels of symbolic links");
    edited.remove("peers.d");
    edited.write("peers.d", "no directory");
    CHECK(edited.reload() == "192.0.2.1:1/auto");
}

TEST_CASE("a broken edit keeps what the file said before") {
    Edited edited("peers = ['192.0.2.1:1']\nrefresh = 9");
    for (const char *broken : {"peers = ['192.0.2.2:1', 'x']", "peers = ['192.0.2.2:1'",
                               "peers = ['192.0.2.2:1']\nhops = 0", "[[[", "pears = []"}) {
        edited.write("synergy.toml", broken);
        CHECK(edited.reload().starts_with("192.0.2.1:1/auto\nDIR/synergy.toml:"));
        CHECK(edited.settings.refresh == std::chrono::seconds(9));
    }
    // And peers.d goes on.
    edited.write("peers.d/a.toml", "peers = ['192.0.2.3:1']");
    CHECK(edited.reload().starts_with("192.0.2.1:1/auto 192.0.2.3:1/auto\nDIR/synergy.toml:"));
    edited.remove("synergy.toml");
    CHECK(edited.reload() == "192.0.2.1:1/auto 192.0.2.3:1/auto\nconfig file: 'DIR/synergy.toml': "
                             "expected a file that can be read: No such file or directory");
    edited.write("synergy.toml", "peers = ['192.0.2.2:1']");
    CHECK(edited.reload() == "192.0.2.2:1/auto 192.0.2.3:1/auto");
    edited.write("synergy.toml", "");
    CHECK(edited.reload() == "192.0.2.3:1/auto");
}

TEST_CASE("a mistake in the environment doesn't keep the file from being read again") {
    Edited edited("peers = ['192.0.2.1:1']", {{"SYNERGY_LOG", "loud"}});
    edited.write("synergy.toml", "peers = ['192.0.2.2:1']");
    CHECK(edited.reload().starts_with("192.0.2.2:1/auto\nSYNERGY_LOG: 'loud': "));
}

TEST_CASE("a file that a variable overrules is not followed, nor is one that can't change") {
    const Directory directory;
    const std::string file = directory.write("synergy.toml", "peers = ['192.0.2.1:1']");
    static_cast<void>(directory.write("peers.d/a.toml", "peers = ['192.0.2.2:1']"));
    const Settings settings = load({{"SYNERGY_CONFIG", file}, {"SYNERGY_PEERS", "192.0.2.3:1"}});
    CHECK_FALSE(settings.follows_file);
    CHECK(targets(settings, Transport::tcp, 4444) == "192.0.2.3:1/auto");
    CHECK_FALSE(settings.may_gain(Transport::tcp, 4444));
    CHECK_FALSE(load({}).follows_file);
}

TEST_CASE("damaged texts neither crash nor throw, and nothing unsound comes of them") {
    std::mt19937 random(4444); // NOLINT: the same texts each time
    const std::string list = "[2001:db8::5]:5555-5560, 198.51.100.5:80 [fe80::1%lo]:5 "
                             "[::ffff:192.0.2.1]:9 host.example:5555";
    for (int i = 0; i < 20000; ++i) {
        const std::string text = mutate(list, random);
        std::vector<Problem> problems;
        CHECK_NOTHROW(check_sound(parse_peers(text, "P", problems)));
    }
    for (int i = 0; i < 5000; ++i) {
        Variables variables{{"SYNERGY_PEERS", mutate(good_peer, random)},
                            {"SYNERGY_HOPS", mutate("auto", random)},
                            {"SYNERGY_PORTS", mutate("4444,5000-5010", random)},
                            {"SYNERGY_LOCAL", mutate("2001:db8::11 192.0.2.11", random)},
                            {"SYNERGY_REFRESH", mutate("20", random)},
                            {"SYNERGY_LOG", mutate("warn", random)}};
        CHECK_NOTHROW(check_sound(load(variables)));
    }
    const Directory directory;
    const std::string whole =
        std::string("refresh = 20\nlog = \"warn\"\nlocal = ['::2']") + sections;
    for (int i = 0; i < 5000; ++i) {
        const std::string file = directory.write("synergy.toml", mutate(whole, random));
        CHECK_NOTHROW(check_sound(load({{"SYNERGY_CONFIG", file}})));
    }
}

TEST_CASE("variables that nobody knows are named, with the nearest that there is") {
    CHECK(unknown({"SYNERGY_PEERS=x", "SYNERGY_HOPS=2", "SYNERGY_HOPS_MIN=1", "SYNERGY_CONFIG=/x",
                   "PATH=/bin", "SYNERGIES=x", "HOME=/"}) == "");
    CHECK(unknown({"SYNERGY_PEER=[2001:db8::5]:5555"}) ==
          "environment: 'SYNERGY_PEER': expected SYNERGY_PEERS\n");
    CHECK(unknown({"SYNERGY_HOP=2", "SYNERGY_LOGS=x"}) ==
          "environment: 'SYNERGY_HOP': expected SYNERGY_HOPS\n"
          "environment: 'SYNERGY_LOGS': expected SYNERGY_LOG\n");
    // Also in small letters, unless it may be another program's.
    CHECK(unknown({"synergy_peers=x", "Synergy_Hop=2", "synergy_home=/x", "synergy=1"}) ==
          "environment: 'synergy_peers': expected SYNERGY_PEERS\n"
          "environment: 'Synergy_Hop': expected SYNERGY_HOPS\n");
    CHECK(unknown({"SYNERGY_FROBNICATE=1"})
              .starts_with("environment: 'SYNERGY_FROBNICATE': expected one of SYNERGY_CONFIG, "
                           "SYNERGY_HOPS, "));
}
