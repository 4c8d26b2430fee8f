#include "hops/learned_hops.h"

#include "harness.h"
#include "settings/peer_list.h"

#include <cstring>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/stat.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

using namespace synergy;

namespace {

const RouteKey route{"2001:db8:b::/48", "2001:db8:a::11", "2001:db8:a::1"};
const RouteKey other{"203.0.113.0/24", "198.51.100.11", "-"};

/// A file in a directory that goes away with the value.
class StateFile {
  public:
    [[nodiscard]] std::string path() const { return directory_.path("state/synergy/hops"); }
    void write(const std::string &text) const {
        directory_.write("state/synergy/hops", text);
        chmod(path().c_str(), 0600);
    }
    [[nodiscard]] std::string read() const {
        std::ostringstream text;
        text << std::ifstream(path(), std::ios::binary).rdbuf();
        return text.str();
    }
    [[nodiscard]] std::optional<LearnedHops> find(const RouteKey &key) const {
        return find_learned_hops(path(), key);
    }
    int store(const RouteKey &key, int hops, int length) const {
        return store_learned_hops(path(), key, hops, length);
    }
    [[nodiscard]] std::ptrdiff_t files() const {
        const std::filesystem::directory_iterator all(std::filesystem::path(path()).parent_path());
        return std::distance(begin(all), end(all));
    }

  private:
    harness::Directory directory_;
};

std::string line(const RouteKey &key, int hops, std::int64_t age) {
    return key.peer + " " + key.own + " " + key.gateway + " " + std::to_string(hops) + " 5 " +
           std::to_string(std::time(nullptr) - age) + "\n";
}

Endpoint address(const std::string &text) {
    std::vector<Problem> problems;
    return parse_peers(text, "", problems).at(0).address;
}

} // namespace

TEST_CASE("root keeps nothing in a home that somebody else owns, wherever his links lead" *
          doctest::skip(::geteuid() != 0)) {
    constexpr uid_t other = 65534;
    const harness::Directory directory;
    const auto exists = [&](const char *name) {
        return std::filesystem::exists(directory.path(name));
    };
    std::filesystem::create_directories(directory.path("home/.local"));
    std::filesystem::create_directories(directory.path("roots"));
    std::filesystem::create_directory_symlink(directory.path("roots"),
                                              directory.path("home/.local/state"));
    const std::string file = directory.path("home/.local/state/synergy/hops");
    REQUIRE(::chown(directory.path("home").c_str(), other, other) == 0);
    CHECK(store_learned_hops(file, route, 3, 5) == EPERM);
    CHECK_FALSE(exists("roots/synergy"));

    // Root's own home.
    REQUIRE(::chown(directory.path("home").c_str(), 0, 0) == 0);
    CHECK(store_learned_hops(file, route, 3, 5) == 0);
    CHECK(exists("roots/synergy/hops"));
    CHECK(find_learned_hops(file, route).has_value());
    REQUIRE(::chown(directory.path("home").c_str(), other, other) == 0);
    CHECK_FALSE(find_learned_hops(file, route).has_value());
}

TEST_CASE("what is stored is found again, by its route alone") {
    const StateFile file;
    CHECK_FALSE(file.find(route));
    CHECK(file.store(route, 3, 5) == 0);
    CHECK(file.store(other, 4, 0) == 0);
    REQUIRE(file.find(route));
    CHECK(file.find(route)->hops == 3);
    CHECK(file.find(route)->path_length == 5);
    CHECK(file.find(route)->age < std::chrono::seconds(5));
    CHECK(file.find(other)->hops == 4);
    CHECK_FALSE(file.find({route.peer, route.own, "2001:db8:a::2"}));

    CHECK(file.store(route, 2, 5) == 0);
    CHECK(file.find(route)->hops == 2);
    CHECK(file.find(other)->hops == 4);
    CHECK(file.files() == 1);
    struct stat status {};
    REQUIRE(stat(file.path().c_str(), &status) == 0);
    CHECK((status.st_mode & 0777U) == 0600);
}

TEST_CASE("age") {
    const StateFile file;
    file.write("synergy hops 1\n" + line(route, 3, 86400) + line(other, 4, 86400 * 31));
    CHECK(file.find(route)->age >= std::chrono::hours(24));
    CHECK_FALSE(file.find(other)); // a month is over
    file.write("synergy hops 1\n" + line(route, 3, -86400));
    CHECK_FALSE(file.find(route)); // of the future
}

TEST_CASE("damaged lines are passed over, and gone with the next store") {
    const StateFile file;
    const std::vector<std::string> damages{
        "x\n",
        "\n",
        "a b c\n",
        "2001:db8:b::/48 a b 300 5 1\n",
        "a b c 3 5 1 more\n",
        "2001:db8:b::/48 2001:db8:a::11 2001:db8:a::1 three 5 1\n",
        "\xff\xfe\n"};
    for (const std::string &damage : damages) {
        CAPTURE(damage);
        const std::string kept = line(route, 3, 0);
        file.write("synergy hops 1\n" + damage + kept + damage);
        CHECK(file.find(route)->hops == 3);
        CHECK(file.store(other, 2, 0) == 0);
        const std::string now = file.read();
        CHECK(now.starts_with("synergy hops 1\n" + kept + "203.0.113.0/24 198.51.100.11 - 2 0 "));
        CHECK(std::count(now.begin(), now.end(), '\n') == 3);
    }
    // Cut off anywhere.
    const std::string whole = "synergy hops 1\n" + line(route, 3, 0);
    for (std::size_t length = 0; length < whole.size(); length++) {
        file.write(whole.substr(0, length));
        CHECK_FALSE(file.find(route));
    }
    file.write("");
    CHECK(file.store(route, 3, 5) == 0);
    CHECK(file.find(route)->hops == 3);
}

TEST_CASE("a file that is not ours is left alone") {
    const StateFile file;
    for (const std::string &foreign : {std::string("hello\n"), std::string(70000, 'x')}) {
        file.write(foreign);
        CHECK_FALSE(file.find(route));
        CHECK(file.store(route, 3, 5) != 0);
        CHECK(file.read() == foreign);
    }
    // Nor what others may have written.
    file.write("synergy hops 1\n" + line(route, 3, 0));
    CHECK(file.find(route));
    chmod(file.path().c_str(), 0666);
    CHECK_FALSE(file.find(route));
    CHECK(file.store(route, 3, 5) == EPERM);
    if (geteuid() == 0) {
        chmod(file.path().c_str(), 0600);
        REQUIRE(chown(file.path().c_str(), 65534, 65534) == 0);
        CHECK_FALSE(file.find(route));
    }
    std::filesystem::remove(file.path());
    std::filesystem::create_directory(file.path());
    CHECK_FALSE(file.find(route));
    CHECK(file.store(route, 3, 5) != 0);
    std::filesystem::remove(file.path());
    REQUIRE(mkfifo(file.path().c_str(), 0600) == 0); // opening it does not wait for a writer
    CHECK_FALSE(file.find(route));
    std::filesystem::remove(file.path());
    std::filesystem::create_symlink("/etc/passwd", file.path());
    CHECK_FALSE(file.find(route));
    CHECK(file.store(route, 3, 5) != 0);
    CHECK(std::filesystem::is_symlink(file.path()));
}

TEST_CASE("nowhere to store") {
    CHECK(store_learned_hops("", route, 3, 5) == ENOENT);
    CHECK_FALSE(find_learned_hops("", route));
    CHECK(store_learned_hops("/proc/no/hops", route, 3, 5) != 0);
    CHECK(store_learned_hops("/dev/null/hops", route, 3, 5) == ENOTDIR);
}

TEST_CASE("the latest entries are kept") {
    const StateFile file;
    for (int i = 0; i < 300; i++)
        REQUIRE(file.store({"p" + std::to_string(i), "a", "g"}, 3, 5) == 0);
    CHECK_FALSE(file.find({"p43", "a", "g"}));
    CHECK(file.find({"p44", "a", "g"}));
    CHECK(file.find({"p299", "a", "g"}));
}

TEST_CASE("many store and find at once") {
    const StateFile file;
    REQUIRE(file.store(route, 3, 5) == 0);
    std::vector<std::thread> threads;
    std::atomic<int> bad = 0;
    for (int i = 0; i < 4; i++)
        threads.emplace_back([&, i] {
            for (int n = 0; n < 100; n++) {
                if (i == 0 && file.store(route, 3, 5) != 0)
                    bad++;
                // A reader never sees a part of the file.
                if (i != 0 && (!file.find(route) || file.find(route)->hops != 3))
                    bad++;
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    CHECK(bad == 0);
    CHECK(file.files() == 1);
}

TEST_CASE("where the file is") {
    const auto file = [](const char *state, const char *home) {
        return learned_hops_file([=](const char *name) -> const char * {
            return std::string(name) == "XDG_STATE_HOME" ? state : home;
        });
    };
    CHECK(file("/state", "/home/me") == "/state/synergy/hops");
    CHECK(file(nullptr, "/home/me") == "/home/me/.local/state/synergy/hops");
    CHECK(file("state", "/home/me") == "/home/me/.local/state/synergy/hops");
    CHECK(file(nullptr, nullptr).empty());
    CHECK(file("", "home").empty());
}

TEST_CASE("routes as keys") {
    Route way;
    way.source = address("198.51.100.11:1");
    const RouteKey v4 = RouteKey::from(address("203.0.113.77:1").mapped(), way);
    CHECK(v4 == other);
    way.source = address("[2001:db8:a::11]:1");
    way.gateway = address("[fe80::1%7]:1");
    sockaddr_in6 without_link{}; // as the kernel tells it
    std::memcpy(&without_link, way.gateway.data(), sizeof without_link);
    without_link.sin6_scope_id = 0;
    way.gateway =
        Endpoint::from(reinterpret_cast<const sockaddr *>(&without_link), sizeof without_link);
    way.interface = 7;
    const RouteKey v6 = RouteKey::from(address("[2001:db8:b:1:2:3:4:5]:1"), way);
    CHECK(v6 == RouteKey{"2001:db8:b::/48", "2001:db8:a::11", "fe80::1%7"});
}

TEST_CASE("the kernel tells the route") {
    for (const Endpoint &own : {Endpoint::loopback(AF_INET6, 5), Endpoint::loopback(AF_INET, 5)}) {
        const std::optional<Route> found = route_to(own, {});
        REQUIRE(found);
        CHECK(found->on_link);
        CHECK(found->gateway.empty());
        CHECK(found->source.same_address(own));
        CHECK(route_to(own.mapped(), {})->source.same_address(own));
    }
    CHECK_FALSE(route_to({}, {}));
    CHECK_FALSE(route_to(Endpoint::loopback(AF_INET6, 0), Endpoint::loopback(AF_INET, 0)));
}
