// What a process of the server's has in its descriptor table, seen through /proc.
#pragma once

#include <cstdint>
#include <optional>

#include <sys/types.h>

namespace synergy {

/// Under which number a process has the socket of this inode: `likely` if it is that one, else
/// another, else -1. nullopt: it can't be told (/proc is not there, or not to be read by us).
std::optional<int> find_descriptor(pid_t process, std::uint64_t inode, int likely);

} // namespace synergy
