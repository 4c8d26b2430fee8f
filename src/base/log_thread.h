// Who writes the log's lines where that may take as long as others like: a disk, a file system that
// hangs, whoever reads a pipe or a terminal. The thread is there only while there is something to
// write, and a process that is copied by fork(2) has none.
#pragma once

#include "base/rights.h"

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace synergy::log_thread {

/// Writes one line. `lost` is how many others found no room after it.
using Writing = std::function<void(std::size_t lost)>;

/// What the thread has of what the process has.
struct Own {
    int descriptor = -1;              ///< and the standard ones: it keeps nothing else open
    std::vector<std::string> written; ///< where root's may write
    Capabilities to_open = 0;         ///< what opening that may take, until leave_rights()
};

/// To be called once, while the process has no other thread. False: there can be none, since a
/// system call filter would end who makes it.
[[nodiscard]] bool prepare(Own own);

/// To be called before what may take as long as others like: from then on the thread, where it is
/// the log's, has no capabilities (base/rights.h).
void leave_rights();

/// To be done after what was given before. False: no thread can be had.
[[nodiscard]] bool give(Writing writing);

/// Waits until all is written: true. At most for so long.
bool finish(std::chrono::milliseconds patience);

/// What a process that ends has for finish().
constexpr std::chrono::milliseconds time_for_last_lines(1000);

/// Waits so for a moment, unless the thread is known to be stuck. Whether all is written.
bool catch_up();

/// What is not begun yet is for a new thread, which has the rights that the caller has now.
void replace();

} // namespace synergy::log_thread
