// What the kernel lets a thread do. Rights are each thread's own (credentials(7)): what is given up
// here the process's other threads keep, and those that this one starts afterwards never have.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <sys/types.h>

namespace synergy {

/// Capabilities (capabilities(7)), a bit for each. Those that are used here are below 32.
using Capabilities = std::uint32_t;

constexpr Capabilities capability(int number) {
    return 1U << number;
}

/// From now on this thread has no capabilities but those of `kept` that it has. False and errno:
/// all stay as they are.
bool keep_capabilities(Capabilities kept);

/// The same of those that are in force: the others can be had again.
bool exert_capabilities(Capabilities wanted);

/// Landlock (landlock(7)): from now on this thread writes nowhere but to these files, and in these
/// directories to all that is below. What does not exist is passed over. True also where the kernel
/// has no Landlock. It takes no_new_privs (prctl(2)). False and errno: nothing has changed.
bool write_only(const std::vector<std::string> &written);

/// This thread goes on as that user, in this group alone, for good. Where groups can't be changed
/// (user_namespaces(7)) they stay. False and errno: it is the user that it was.
bool change_user(uid_t user, gid_t group);

/// No supplementary groups (setgroups(2), which takes CAP_SETGID). False and errno: they stay.
bool leave_groups();

/// To be called once, before there are other threads. Without it, and where a system call filter
/// would end who gives rights up, leave_rights() does nothing.
void try_to_leave_rights();

/// For a thread at its start, before it meets anything from outside: it gives up its capabilities
/// and supplementary groups, and to gain any by exec; root's writes to nothing but `written` (see
/// write_only()). What can't be given up is kept. With `kept` these capabilities are the thread's
/// until it calls this again without, and so is what it may write to.
void leave_rights(const std::vector<std::string> &written = {}, Capabilities kept = 0);

} // namespace synergy
