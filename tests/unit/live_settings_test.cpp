#include "settings/live_settings.h"

#include "base/log.h"
#include "harness.h"
#include "settings/load_settings.h"

#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sched.h>
#include <sstream>
#include <sys/mount.h>
#include <unistd.h>

using namespace synergy;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

/// Settings that are read from a file, and what is logged. In a process of its own.
struct Bench {
    harness::Directory directory;
    std::string peers; ///< SYNERGY_PEERS, unless empty
    Scheduler scheduler;
    int changes = 0;
    std::optional<LiveSettings> live;

    Bench() { log::configure({.level = LogLevel::info, .where = directory.path("log")}); }

    /// As a keeper begins.
    void load(const std::string &content) {
        write(content);
        const std::string file = directory.path("conf/synergy.toml");
        Settings initial = load_settings([&](const char *name) -> const char * {
            if (std::strcmp(name, "SYNERGY_PEERS") == 0 && !peers.empty())
                return peers.c_str();
            return std::strcmp(name, "SYNERGY_CONFIG") == 0 ? file.c_str() : nullptr;
        });
        initial.refresh = seconds(1);
        live.emplace(scheduler, std::move(initial), [this] { changes++; });
    }
    void write(const std::string &content) const { directory.write("conf/synergy.toml", content); }
    [[nodiscard]] std::string targets() const {
        std::string all;
        for (const Target &target : live->now().targets_for(Transport::tcp, 4444))
            all += target.peer.text() + " ";
        return all;
    }
    bool come_to(const std::string &wanted, Duration limit = seconds(5)) {
        return harness::run_until(
            scheduler, [&] { return targets() == wanted; }, limit);
    }
    void run_for(Duration time) {
        harness::run_until(
            scheduler, [] { return false; }, time);
    }
    [[nodiscard]] std::size_t said(const std::string &what) const {
        std::ostringstream stream;
        stream << std::ifstream(directory.path("log")).rdbuf();
        const std::string text = stream.str();
        std::size_t count = 0;
        for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at++)
            count++;
        return count;
    }
};

/// What a host name stands for, in a mount namespace where that can be changed.
struct HostsFile {
    explicit HostsFile(const harness::Directory &directory) : path_(directory.path("hosts")) {
        write("");
        if (::unshare(CLONE_NEWNS) != 0 ||
            ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            ::mount(path_.c_str(), "/etc/hosts", nullptr, MS_BIND, nullptr) != 0)
            throw std::system_error(errno, std::generic_category(), "/etc/hosts");
    }
    /// In place: what is mounted is the file, and not its name.
    void write(const std::string &content) const { std::ofstream(path_) << content; }

  private:
    std::string path_;
};

constexpr const char *one = "peers = ['192.0.2.1:1']";
constexpr const char *two = "peers = ['192.0.2.2:1']";
constexpr const char *wrong = "peers = ['192.0.2.2:x']";

} // namespace

TEST_CASE("live settings: a file that changes is told of, once it is followed") {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.load(one);
              const Settings *at = &bench.live->now();
              EXPECT_IN_CHILD(bench.targets() == "192.0.2.1:1 ");
              bench.run_for(milliseconds(50));
              bench.write(two);
              bench.run_for(milliseconds(200));
              EXPECT_IN_CHILD(bench.targets() == "192.0.2.1:1 ");
              // What has changed in the meantime counts, and the caller sees it by the answer.
              EXPECT_IN_CHILD(bench.live->follow_file());
              EXPECT_IN_CHILD(bench.targets() == "192.0.2.2:1 " && bench.changes == 0);
              EXPECT_IN_CHILD(!bench.live->follow_file());
              bench.write(one);
              EXPECT_IN_CHILD(bench.come_to("192.0.2.1:1 "));
              EXPECT_IN_CHILD(bench.changes == 1);
              EXPECT_IN_CHILD(&bench.live->now() == at);
              // Written again as it was: nothing new.
              bench.write(one);
              bench.run_for(milliseconds(300));
              EXPECT_IN_CHILD(bench.changes == 1);
              return "";
          }) == "");
}

TEST_CASE("live settings: where the environment names the peers, no file does") {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.peers = "192.0.2.9:1";
              bench.load(one);
              EXPECT_IN_CHILD(!bench.live->follow_file());
              bench.write(two);
              bench.run_for(milliseconds(300));
              EXPECT_IN_CHILD(bench.targets() == "192.0.2.9:1 " && bench.changes == 0);
              return "";
          }) == "");
}

TEST_CASE("live settings: a mistake is said once until it is mended, and nothing else changes") {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.load(one);
              EXPECT_IN_CHILD(!bench.live->follow_file());
              const auto edit = [&](const std::string &content) {
                  bench.write(content);
                  bench.run_for(milliseconds(300));
              };
              edit(wrong);
              EXPECT_IN_CHILD(bench.targets() == "192.0.2.1:1 ");
              EXPECT_IN_CHILD(bench.said("'192.0.2.2:x'") == 1);
              EXPECT_IN_CHILD(bench.said("what the file said before stays in force") == 1);
              edit(std::string(wrong) + "\n# the same mistake");
              EXPECT_IN_CHILD(bench.said("'192.0.2.2:x'") == 1);
              edit(two);
              EXPECT_IN_CHILD(bench.targets() == "192.0.2.2:1 ");
              edit(wrong);
              EXPECT_IN_CHILD(bench.said("'192.0.2.2:x'") == 2);
              return "";
          }) == "");
}

TEST_CASE("live settings: what was wrong at the start is not said again") {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.load(wrong);
              static_cast<void>(bench.live->follow_file());
              bench.write(std::string(wrong) + "\n");
              bench.run_for(milliseconds(300));
              EXPECT_IN_CHILD(bench.said("'192.0.2.2:x'") == 0);
              return "";
          }) == "");
}

TEST_CASE("live settings: a file that can't be watched is said, and what it said stays") {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              bench.load(one);
              std::filesystem::remove_all(bench.directory.path("conf"));
              static_cast<void>(bench.live->follow_file());
              EXPECT_IN_CHILD(bench.said("changes will not be seen before a restart") == 1);
              EXPECT_IN_CHILD(bench.targets() == "192.0.2.1:1 ");
              return "";
          }) == "");
}

TEST_CASE("live settings: the addresses of names come and change while they are followed" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              const HostsFile hosts(bench.directory);
              hosts.write("192.0.2.7 laptop\n");
              bench.load("peers = ['laptop:5', '192.0.2.1:1']");
              EXPECT_IN_CHILD(bench.targets() == "192.0.2.1:1 ");
              bench.run_for(milliseconds(200)); // nobody has asked for it
              EXPECT_IN_CHILD(bench.targets() == "192.0.2.1:1 ");
              bench.live->follow_names();
              EXPECT_IN_CHILD(bench.come_to("192.0.2.7:5 192.0.2.1:1 "));
              EXPECT_IN_CHILD(bench.changes == 1);
              hosts.write("192.0.2.8 laptop\n");
              EXPECT_IN_CHILD(bench.come_to("192.0.2.8:5 192.0.2.1:1 "));
              EXPECT_IN_CHILD(bench.changes == 2);
              // Until somebody needs it again.
              bench.live->forget_names();
              hosts.write("192.0.2.9 laptop\n");
              bench.run_for(milliseconds(1500));
              EXPECT_IN_CHILD(bench.changes == 2);
              bench.live->follow_names();
              EXPECT_IN_CHILD(bench.come_to("192.0.2.9:5 192.0.2.1:1 "));
              return "";
          }) == "");
}

TEST_CASE("live settings: a name that comes with the file is looked up" *
          doctest::skip(geteuid() != 0)) {
    CHECK(harness::in_child([]() -> std::string {
              Bench bench;
              const HostsFile hosts(bench.directory);
              hosts.write("192.0.2.7 laptop\n192.0.2.8 desktop\n");
              bench.load(one);
              EXPECT_IN_CHILD(!bench.live->follow_file());
              bench.live->follow_names(); // none yet
              bench.write("peers = ['laptop:5']");
              EXPECT_IN_CHILD(bench.come_to("192.0.2.7:5 "));
              bench.write("peers = ['desktop:5']");
              EXPECT_IN_CHILD(bench.come_to("192.0.2.8:5 "));
              EXPECT_IN_CHILD(!bench.live->now().addresses.contains("laptop"));
              return "";
          }) == "");
}
