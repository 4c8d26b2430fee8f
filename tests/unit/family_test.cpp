#include "keeper/family.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <csignal>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

using namespace synergy;

namespace {

constexpr std::uint16_t some_port = 45678;

EngineAddress address_of(pid_t process, const char (&name)[6]) {
    EngineAddress address;
    address.process = process;
    std::copy_n(name, 5, address.name.begin());
    return address;
}

/// A process that sleeps until it is ended.
struct Sleeper {
    pid_t process = fork();

    Sleeper() {
        if (process == 0) {
            alarm(60);
            for (;;)
                pause();
        }
    }
    ~Sleeper() { end(); }
    void end() {
        if (process <= 0)
            return;
        kill(process, SIGKILL);
        waitpid(process, nullptr, 0);
        process = 0;
    }
};

} // namespace

TEST_CASE("family: there is one, with a secret that is not all zero") {
    CHECK(&Family::get() == &Family::get());
    CHECK(Family::get().secret() != Secret{});
}

TEST_CASE("family: a port belongs to the engine that rings from it, until it is silenced") {
    Family &family = Family::get();
    auto slot = family.join(address_of(getpid(), "abcde"));
    REQUIRE(slot);
    CHECK_FALSE(family.engine_behind(some_port));
    CHECK(family.ring(some_port, *slot));
    auto engine = family.engine_behind(some_port);
    REQUIRE(engine);
    CHECK(engine->process == getpid());
    CHECK(std::string(engine->name.data(), 5) == "abcde");
    CHECK_FALSE(family.engine_behind(some_port + 1));
    CHECK_FALSE(family.ring(some_port, *slot)); // one rings there already
    family.silence(some_port);
    CHECK_FALSE(family.engine_behind(some_port));
    CHECK(family.ring(some_port, *slot));
    family.silence(some_port);
}

TEST_CASE("family: the first and the last port ring too") {
    Family &family = Family::get();
    auto slot = family.join(address_of(getpid(), "abcde"));
    REQUIRE(slot);
    for (std::uint16_t port : std::vector<std::uint16_t>{0, 1, 65535}) {
        CHECK(family.ring(port, *slot));
        CHECK(family.engine_behind(port));
        family.silence(port);
        CHECK_FALSE(family.engine_behind(port));
    }
}

TEST_CASE("family: an engine that starts again keeps its slot and changes its name") {
    Family &family = Family::get();
    auto first = family.join(address_of(getpid(), "aaaaa"));
    auto second = family.join(address_of(getpid(), "bbbbb"));
    REQUIRE(first);
    REQUIRE(second);
    CHECK(*first == *second);
    REQUIRE(family.ring(some_port, *second));
    CHECK(std::string(family.engine_behind(some_port)->name.data(), 5) == "bbbbb");
    family.silence(some_port);
}

TEST_CASE("family: a live process keeps its slot, a dead one's is taken by the next") {
    Family &family = Family::get();
    REQUIRE(family.join(address_of(getpid(), "abcde")));
    Sleeper one, two, three;
    REQUIRE(three.process > 0);
    auto first = family.join(address_of(one.process, "aaaaa"));
    auto second = family.join(address_of(two.process, "bbbbb"));
    REQUIRE(first);
    REQUIRE(second);
    CHECK(*first != *second);
    one.end();
    auto third = family.join(address_of(three.process, "ccccc"));
    REQUIRE(third);
    CHECK(*third == *first);
    REQUIRE(family.ring(some_port, *third));
    CHECK(family.engine_behind(some_port)->process == three.process);
    family.silence(some_port);
}

TEST_CASE("family: 255 live engines fit, the next is told that there is no room") {
    auto result = harness::in_child([]() -> std::string {
        Family &family = Family::get();
        std::vector<std::unique_ptr<Sleeper>> sleepers;
        std::set<int> slots;
        // The parent has a slot of this page as well, perhaps.
        while (sleepers.size() < 256) {
            sleepers.push_back(std::make_unique<Sleeper>());
            EXPECT_IN_CHILD(sleepers.back()->process > 0);
            auto slot = family.join(address_of(sleepers.back()->process, "aaaaa"));
            if (!slot)
                break;
            EXPECT_IN_CHILD(slots.insert(*slot).second);
        }
        EXPECT_IN_CHILD(slots.size() == 255 || slots.size() == 254);
        sleepers.front()->end();
        auto freed = family.join(address_of(sleepers.back()->process, "zzzzz"));
        EXPECT_IN_CHILD(freed && slots.count(*freed));
        return {};
    });
    CHECK(result == "");
}

TEST_CASE("family: what one process does, those forked from it see, and the other way round") {
    Family &family = Family::get();
    auto slot = family.join(address_of(getpid(), "abcde"));
    REQUIRE(slot);
    REQUIRE(family.ring(some_port, *slot));
    pid_t parent = getpid();
    Secret secret = family.secret();
    std::uint8_t ours = *slot;
    auto result = harness::in_child([&]() -> std::string {
        Family &same = Family::get();
        EXPECT_IN_CHILD(same.secret() == secret);
        auto engine = same.engine_behind(some_port);
        EXPECT_IN_CHILD(engine && engine->process == parent);
        auto own = same.join(address_of(getpid(), "child"));
        EXPECT_IN_CHILD(own && *own != ours);
        EXPECT_IN_CHILD(!same.ring(some_port, *own));
        EXPECT_IN_CHILD(same.ring(some_port + 1, *own));
        return {};
    });
    CHECK(result == "");
    auto engine = family.engine_behind(some_port + 1);
    REQUIRE(engine);
    CHECK(std::string(engine->name.data(), 5) == "child");
    family.silence(some_port);
    family.silence(some_port + 1);
}
