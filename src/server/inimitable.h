// What a listener may have that no connection can be given which it has not made itself.
#pragma once

#include <cstdint>
#include <string>

namespace synergy {

/// What a listener, or a connection that it accepted, has that another socket, which was given its
/// options and whose take this memory, has not, as text for the log; nullptr: nothing.
const char *inimitable(int fd, std::uint32_t option_memory);
/// The sentence about it.
std::string not_to_be_given(const char *what);
/// The memory that a socket's options take (SK_MEMINFO_OPTMEM): the kernel counts what it keeps of
/// filters, keys and header options there, and of nothing else that a stream socket can have.
std::uint32_t option_memory_of(int fd);
/// What a listener has where this is not what is expected.
extern const char *const what_takes_memory;

} // namespace synergy
