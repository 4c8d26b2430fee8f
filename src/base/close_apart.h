// Closing what may take its time.
#pragma once

#include "base/socket.h"

#include <vector>

namespace synergy {

/// Closes sockets that may be the last trace of others which were sent along with a message that
/// nobody read: close() of a TCP socket waits as long as its SO_LINGER says (socket(7)), except for
/// a thread that ends. So that is how they are closed.
void close_apart(std::vector<Socket> sockets);

/// In a descriptor table that is a copy: keeps nothing else alive but these and the standard ones.
void close_all_but(std::vector<int> kept);

/// For a thread: from now on it has a descriptor table of its own, with these and the standard
/// ones. False: it goes on sharing the process's.
bool take_descriptors(std::vector<int> kept);

} // namespace synergy
