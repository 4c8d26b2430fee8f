#include "base/close_apart.h"

#include <future>
#include <sched.h>
#include <system_error>
#include <thread>

namespace synergy {

void close_apart(std::vector<Socket> sockets) {
    std::promise<bool> has_copies;
    std::promise<void> are_closed;
    std::future<bool> copies = has_copies.get_future();
    try {
        std::thread([has_copies = std::move(has_copies),
                     closed = are_closed.get_future()]() mutable {
            // A descriptor table of its own holds them until the thread ends.
            has_copies.set_value(unshare(CLONE_FILES) == 0);
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
