// What the keeper gives up for good once it serves: a server that was taken over talks to it, and
// it may have root's user id.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace synergy {

/// Leaves this process what punching takes: of all capabilities CAP_NET_BIND_SERVICE, no new
/// privileges by exec, the system calls that it makes (no exec, no ptrace, nothing that concerns
/// other processes), and writing to `written` alone (files that exist, or directories with what is
/// below them; those that do not exist are passed over). What the kernel does not have (Landlock,
/// seccomp) is done without. Returns what could not be had, as text for the log: empty where all
/// could.
///
/// `looks_into_processes`: /proc must tell what descriptors other processes have, where nothing
/// else tells whether a socket is still the server's. That takes CAP_SYS_PTRACE (ptrace(2) itself
/// stays refused), and Landlock would forbid it: so writing is not confined then.
///
/// `can_punch`: whether what has to be done can be done, with the rights of the moment at which it
/// is asked. Where that takes CAP_NET_RAW or CAP_NET_ADMIN (the options of listeners: socket(7)),
/// it is kept. `may_change_user`: become_user() is still to come.
std::vector<std::string> confine(const std::vector<std::string> &written, bool looks_into_processes,
                                 const std::function<bool()> &can_punch,
                                 bool may_change_user = false);

/// Goes on as this user, in this group alone, for good, and if that is not root with no capability
/// but the one to bind beside listeners. (Other threads stay who they are, with what leave_rights()
/// has left them.) False if that can't be.
bool become_user(uid_t user, gid_t group);

} // namespace synergy
