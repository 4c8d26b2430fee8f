#include "base/close_apart.h"

#include "base/rights.h"

#include <algorithm>
#include <future>
#include <sched.h>
#include <system_error>
#include <thread>
#include <unistd.h>

namespace synergy {

void close_all_but(std::vector<int> kept) {
    std::sort(kept.begin(), kept.end());
    unsigned next = STDERR_FILENO + 1;
    for (const int fd : kept) {
        if (fd < static_cast<int>(next))
            continue;
        if (const auto number = static_cast<unsigned>(fd); number > next)
            close_range(next, number - 1, 0);
        next = static_cast<unsigned>(fd) + 1;
    }
    close_range(next, ~0U, 0);
}

bool take_descriptors(std::vector<int> kept) {
    if (unshare(CLONE_FILES) != 0)
        return false;
    close_all_but(std::move(kept));
    return true;
}

void close_apart(std::vector<Socket> sockets) {
    std::vector<int> numbers;
    numbers.reserve(sockets.size());
    for (const Socket &socket : sockets)
        numbers.push_back(socket.fd());
    std::promise<bool> has_copies;
    std::promise<void> are_closed;
    std::future<bool> copies = has_copies.get_future();
    try {
        std::thread([numbers = std::move(numbers), has_copies = std::move(has_copies),
                     closed = are_closed.get_future()]() mutable {
            // A descriptor table of its own holds them until the thread ends; and nothing else, as
            // that may be long.
            has_copies.set_value(take_descriptors(std::move(numbers)));
            leave_rights();
            closed.wait();
        }).detach();
    } catch (const std::system_error &) {
        return; // no thread: they are closed all the same, by whoever called
    }
    static_cast<void>(copies.get());
    sockets.clear();
    are_closed.set_value();
}

} // namespace synergy
