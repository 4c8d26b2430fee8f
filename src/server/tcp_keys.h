// TCP's keys (RFC 2385; TCP_MD5SIG and TCP_MD5SIG_EXT, linux/tcp.h), as they were set: no listener
// tells its own.
#pragma once

#include "server/inherited_options.h"

#include <cstddef>
#include <optional>
#include <vector>

namespace synergy {

/// What was given to setsockopt(); nullopt where it is no such key.
std::optional<OptionValue> key_value(int option, const void *bytes, std::size_t length);
bool is_key(const OptionValue &value);
/// Adds a key to those of a socket, or takes away what it takes away. False where it has too many.
bool add_key(std::vector<OptionValue> &keys, const OptionValue &key);

} // namespace synergy
