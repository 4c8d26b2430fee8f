#include "keeper/succession.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

using namespace synergy;
using harness::run_until;
using std::chrono::milliseconds;

namespace {

/// An inode number that no socket of these tests has at the same time.
std::uint64_t fresh_inode() {
    static std::uint64_t next = static_cast<std::uint64_t>(getpid()) << 32;
    return next++;
}

EngineAddress address(pid_t process) {
    return {.process = process, .name = {'a', 'b', 'c', 'd', 'e'}};
}

struct Engine {
    Scheduler &scheduler;
    std::vector<std::uint64_t> turns;
    Succession succession{scheduler, address(getpid()),
                          [this](std::uint64_t inode) { turns.push_back(inode); }};

    explicit Engine(Scheduler &of) : scheduler(of) {}
};

/// A process that keeps a socket's holes until it is killed.
pid_t keeping_process(std::uint64_t inode, uid_t user = geteuid()) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        alarm(30);
        if (user != geteuid() && setuid(user) != 0)
            _exit(1);
        Scheduler scheduler;
        Engine engine(scheduler);
        char answer = engine.succession.claim(inode) ? 'y' : 'n';
        if (::write(ends[1], &answer, 1) != 1)
            _exit(1);
        for (;;)
            scheduler.run_once(milliseconds(100));
    }
    char answer = 0;
    REQUIRE(::read(ends[0], &answer, 1) == 1);
    ::close(ends[0]);
    ::close(ends[1]);
    REQUIRE(answer == 'y');
    return child;
}

} // namespace

TEST_CASE("succession: one keeps, the next stands by and has its turn when that lets go") {
    Scheduler scheduler;
    Engine one(scheduler), two(scheduler);
    std::uint64_t inode = fresh_inode();
    CHECK_FALSE(is_kept(inode));
    CHECK(one.succession.claim(inode));
    CHECK(one.succession.claim(inode));
    CHECK(is_kept(inode));
    CHECK_FALSE(two.succession.claim(inode));
    CHECK_FALSE(two.succession.claim(inode));
    CHECK_FALSE(run_until(
        scheduler, [&] { return !two.turns.empty(); }, milliseconds(50)));
    one.succession.release(inode);
    CHECK(run_until(scheduler, [&] { return !two.turns.empty(); }));
    CHECK(two.turns == std::vector{inode});
    CHECK(one.turns.empty());
    CHECK(two.succession.claim(inode));
    CHECK_FALSE(one.succession.claim(inode));
}

TEST_CASE("succession: each socket has its own") {
    Scheduler scheduler;
    Engine one(scheduler), two(scheduler);
    std::uint64_t first = fresh_inode(), second = fresh_inode();
    CHECK(one.succession.claim(first));
    CHECK(two.succession.claim(second));
}

TEST_CASE("succession: of several heirs one has its turn, and the others behind it") {
    Scheduler scheduler;
    Engine keeper(scheduler);
    std::vector<std::unique_ptr<Engine>> heirs;
    std::uint64_t inode = fresh_inode();
    REQUIRE(keeper.succession.claim(inode));
    for (int i = 0; i < 5; i++)
        REQUIRE_FALSE(
            heirs.emplace_back(std::make_unique<Engine>(scheduler))->succession.claim(inode));
    auto with_a_turn = [&] {
        return std::count_if(heirs.begin(), heirs.end(),
                             [](const auto &heir) { return !heir->turns.empty(); });
    };
    keeper.succession.release(inode);
    CHECK(run_until(scheduler, [&] { return with_a_turn() == 1; }));
    CHECK_FALSE(run_until(
        scheduler, [&] { return with_a_turn() > 1; }, milliseconds(50)));
    for (auto &heir : heirs)
        if (!heir->turns.empty())
            heir->succession.release(inode);
    CHECK(run_until(scheduler, [&] { return with_a_turn() == 2; }));
}

TEST_CASE("succession: a keeper that is killed has an heir at once, and says who it was") {
    Scheduler scheduler;
    Engine heir(scheduler);
    std::uint64_t inode = fresh_inode();
    pid_t child = keeping_process(inode);
    CHECK_FALSE(heir.succession.claim(inode));
    auto keeper = keeper_of(inode);
    REQUIRE(keeper);
    CHECK(keeper->process == child);
    Time killed = Clock::now();
    kill(child, SIGKILL);
    CHECK(run_until(scheduler, [&] { return !heir.turns.empty(); }));
    CHECK(Clock::now() - killed < milliseconds(500));
    waitpid(child, nullptr, 0);
    CHECK(heir.succession.claim(inode));
}

TEST_CASE("succession: an heir that lets go is forgotten") {
    Scheduler scheduler;
    Engine keeper(scheduler);
    std::uint64_t inode = fresh_inode();
    REQUIRE(keeper.succession.claim(inode));
    auto before = harness::open_descriptors();
    {
        Engine heir(scheduler);
        CHECK_FALSE(heir.succession.claim(inode));
        run_until(scheduler,
                  [&] { return harness::open_descriptors().size() >= before.size() + 2; });
    }
    CHECK(run_until(scheduler, [&] { return harness::open_descriptors() == before; }));
}

TEST_CASE("succession: a name that another user has taken keeps nobody from punching") {
    if (geteuid() != 0) {
        MESSAGE("skipped: needs to be root, for a process of another user");
        return;
    }
    std::uint64_t of_root = fresh_inode(), of_other = fresh_inode();
    std::vector<pid_t> children{keeping_process(of_root), keeping_process(of_other, 65533)};
    auto result = harness::in_child([&]() -> std::string {
        EXPECT_IN_CHILD(setuid(65534) == 0);
        Scheduler scheduler;
        Engine engine(scheduler);
        EXPECT_IN_CHILD(keeper_of(of_root)); // who could do anything to this process anyway
        EXPECT_IN_CHILD(!engine.succession.claim(of_root));
        EXPECT_IN_CHILD(!keeper_of(of_other));
        EXPECT_IN_CHILD(engine.succession.claim(of_other));
        return {};
    });
    CHECK(result == "");
    for (pid_t child : children) {
        kill(child, SIGKILL);
        waitpid(child, nullptr, 0);
    }
}
