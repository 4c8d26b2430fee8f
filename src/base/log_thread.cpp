#include "base/log_thread.h"

#include "base/close_apart.h"
#include "base/survival.h"

#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <pthread.h>
#include <system_error>
#include <thread>
#include <utility>

namespace synergy::log_thread {

namespace {

#ifdef __SANITIZE_THREAD__ // to which a number is the same descriptor in every table
constexpr bool has_own_descriptors = false;
#else
constexpr bool has_own_descriptors = true;
#endif

/// As many lines as a busy keeper says in a while; more than that nobody reads afterwards.
constexpr std::size_t lines_most = 1000;

struct Entry {
    Writing write;
    std::size_t lost = 0;
};

/// One thread's, which may be busy with a line of it when there is another one already.
struct Queue {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Entry> entries;
    bool is_running = false;
    bool has_begun = false; ///< with descriptors of its own
    bool is_stuck = false;  ///< was waited for in vain
};

/// Never destroyed: the thread may be in the midst of a line when the process ends.
Queue *&queue() {
    static auto *current = new Queue;
    return current;
}

/// Never destroyed, as above.
Own &what_it_has() {
    static auto *chosen = new Own;
    return *chosen;
}

thread_local bool has_rights_to_leave = false;

void begin_with_few_rights() {
    const Own &own = what_it_has();
    has_rights_to_leave = own.to_open != 0;
    synergy::leave_rights(own.written, own.to_open);
}

void run(Queue &own) {
    if (has_own_descriptors)
        take_descriptors({what_it_has().descriptor});
    std::unique_lock lock(own.mutex);
    own.has_begun = true;
    own.changed.notify_all();
    lock.unlock();
    begin_with_few_rights();
    lock.lock();
    while (!own.entries.empty()) {
        const Entry next = std::move(own.entries.front());
        own.entries.pop_front();
        lock.unlock();
        next.write(next.lost);
        lock.lock();
    }
    own.is_running = own.is_stuck = false;
    own.changed.notify_all();
}

/// Returns when the thread has its own descriptors: what is closed from then on is not among them.
bool start(Queue &own, std::unique_lock<std::mutex> &lock) {
    own.has_begun = false;
    try {
        std::thread([&own] { run(own); }).detach();
    } catch (const std::system_error &) {
        return false;
    }
    own.is_running = true;
    own.changed.wait(lock, [&own] { return own.has_begun; });
    return true;
}

/// In a copy of the process: the lines that wait are the original's to write, and a thread that is
/// not here may hold the lock.
void begin_anew() {
    queue() = new Queue;
}

} // namespace

bool prepare(Own own) {
    what_it_has() = std::move(own);
    return survives([] { std::thread([] { take_descriptors({}); }).join(); }) &&
           pthread_atfork(nullptr, nullptr, begin_anew) == 0;
}

void leave_rights() {
    if (std::exchange(has_rights_to_leave, false))
        synergy::leave_rights(what_it_has().written);
}

bool give(Writing writing) {
    Queue &own = *queue();
    std::unique_lock lock(own.mutex);
    if (own.entries.size() == lines_most) {
        own.entries.back().lost++;
        return true;
    }
    own.entries.push_back({std::move(writing)});
    if (own.is_running || start(own, lock))
        return true;
    own.entries.clear();
    return false;
}

bool finish(std::chrono::milliseconds patience) {
    Queue &own = *queue();
    std::unique_lock lock(own.mutex);
    own.is_stuck = !own.changed.wait_for(lock, patience, [&own] { return !own.is_running; });
    return !own.is_stuck;
}

bool catch_up() {
    constexpr std::chrono::milliseconds moment(50);
    std::unique_lock lock(queue()->mutex);
    const bool is_running = queue()->is_running, is_stuck = queue()->is_stuck;
    lock.unlock();
    return !is_running || (!is_stuck && finish(moment));
}

void replace() {
    if (catch_up())
        return;
    auto *next = new Queue;
    const std::lock_guard lock(queue()->mutex);
    next->entries.swap(std::exchange(queue(), next)->entries);
    std::unique_lock lock_of_next(next->mutex);
    if (!next->entries.empty() && !start(*next, lock_of_next))
        next->entries.clear();
}

} // namespace synergy::log_thread
