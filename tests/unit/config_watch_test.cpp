#include "settings/config_watch.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

using namespace synergy;
using std::chrono::milliseconds;

namespace {

struct Bench {
    harness::Directory directory;
    Scheduler scheduler;
    int changes = 0;
    ConfigWatch watch{scheduler, directory.write("synergy.toml", "old"), [this] { changes++; }};

    Bench() { REQUIRE(watch.begin() == 0); }
    /// How often it was told of what `edit` did.
    template <typename Edit> int told_of(Edit edit) {
        const int before = changes;
        edit();
        harness::run_until(
            scheduler, [] { return false; }, milliseconds(300));
        return changes - before;
    }
    int told_of_writing(const std::string &name) {
        return told_of([&] { directory.write(name, "new"); });
    }
    int told_of_moving(const std::string &name, const std::string &to) {
        return told_of([&] { std::filesystem::rename(directory.path(name), directory.path(to)); });
    }
    int told_of_removing(const std::string &name) {
        return told_of([&] { std::filesystem::remove_all(directory.path(name)); });
    }
};

} // namespace

TEST_CASE("config watch: every way to change the file is told of once") {
    Bench bench;
    CHECK(bench.told_of([] {}) == 0);
    CHECK(bench.told_of_writing("synergy.toml") == 1);
    CHECK(bench.told_of_writing("synergy.toml") == 1);
    // As editors do.
    static_cast<void>(bench.told_of_writing(".synergy.toml.swp"));
    CHECK(bench.told_of_moving(".synergy.toml.swp", "synergy.toml") == 1);
    CHECK(bench.told_of_writing("synergy.toml") == 1);
    CHECK(bench.told_of([&] {
        for (int i = 0; i < 50; i++)
            bench.directory.write("synergy.toml", std::to_string(i));
    }) == 1);
    CHECK(bench.told_of_removing("synergy.toml") == 1);
    CHECK(bench.told_of_writing("synergy.toml") == 1);
    CHECK(bench.told_of([&] { std::ifstream(bench.directory.path("synergy.toml")).get(); }) == 0);
}

TEST_CASE("config watch: a link to a file elsewhere") {
    Bench bench;
    harness::Directory elsewhere;
    const std::string target = elsewhere.write("real.toml", "old");
    CHECK(bench.told_of([&] {
        std::filesystem::remove(bench.directory.path("synergy.toml"));
        std::filesystem::create_symlink(target, bench.directory.path("synergy.toml"));
    }) == 1);
    CHECK(bench.told_of([&] { elsewhere.write("real.toml", "new"); }) == 1);
    CHECK(bench.told_of_removing("synergy.toml") == 1);
    CHECK(bench.told_of([&] {
        std::filesystem::create_symlink(target, bench.directory.path("synergy.toml"));
    }) == 1);
}

TEST_CASE("config watch: peers.d comes, is filled, is emptied, and goes") {
    Bench bench;
    CHECK(bench.told_of(
              [&] { std::filesystem::create_directory(bench.directory.path("peers.d")); }) == 1);
    CHECK(bench.told_of_writing("peers.d/a.toml") == 1);
    CHECK(bench.told_of_moving("peers.d/a.toml", "peers.d/b.toml") == 1);
    CHECK(bench.told_of_moving("peers.d/b.toml", "c.toml") == 1);
    CHECK(bench.told_of_moving("c.toml", "peers.d/c.toml") == 1);
    CHECK(bench.told_of_removing("peers.d/c.toml") == 1);
    CHECK(bench.told_of([&] {
        std::filesystem::create_symlink(bench.directory.path("synergy.toml"),
                                        bench.directory.path("peers.d/link.toml"));
    }) == 1);
    CHECK(bench.told_of_removing("peers.d") >= 1);
    CHECK(bench.told_of_writing("peers.d/a.toml") >= 1);
    CHECK(bench.told_of_writing("peers.d/a.toml") == 1);
    // Another directory in its place.
    CHECK(bench.told_of_writing("next/a.toml") >= 1);
    CHECK(bench.told_of([&] {
        std::filesystem::rename(bench.directory.path("peers.d"), bench.directory.path("before"));
        std::filesystem::rename(bench.directory.path("next"), bench.directory.path("peers.d"));
    }) >= 1);
    CHECK(bench.told_of_writing("peers.d/b.toml") == 1);
}

TEST_CASE("config watch: a directory that is replaced, and is missing for a while") {
    harness::Directory directory;
    const std::string file = directory.write("config/synergy.toml", "old");
    Scheduler scheduler;
    int changes = 0;
    ConfigWatch watch(scheduler, file, [&] { changes++; });
    REQUIRE(watch.begin() == 0);
    std::filesystem::remove_all(directory.path("config"));
    harness::run_until(
        scheduler, [] { return false; }, milliseconds(300));
    CHECK(changes == 0); // there is nothing to be read
    directory.write("config/synergy.toml", "new");
    CHECK(harness::run_until(scheduler, [&] { return changes == 1; }));
    directory.write("config/synergy.toml", "newer");
    CHECK(harness::run_until(scheduler, [&] { return changes == 2; }));
    ConfigWatch nowhere(scheduler, directory.path("missing/synergy.toml"), [] {});
    CHECK(nowhere.begin() == ENOENT);
}

TEST_CASE("config watch: a file that is being written is not complete") {
    Bench bench;
    std::filesystem::create_directory(bench.directory.path("peers.d"));
    CHECK(bench.told_of([] {}) == 1);
    std::ofstream writer;
    CHECK(bench.told_of([&] {
        writer.open(bench.directory.path("peers.d/a.toml"));
        writer << "peers = [" << std::flush;
    }) == 0);
    CHECK(bench.told_of([&] {
        writer << "]";
        writer.close();
    }) == 1);
}

TEST_CASE("config watch: ends without a trace") {
    const auto before = harness::open_descriptors();
    {
        Bench bench;
        bench.directory.write("synergy.toml", "new");
        bench.scheduler.run_once(milliseconds(0));
    }
    CHECK(harness::open_descriptors() == before);
}
