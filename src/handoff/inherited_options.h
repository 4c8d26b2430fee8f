// What a connection inherits from its listener, for connections that did not come out of one.
#pragma once

namespace synergy {

/// Gives `to` every socket option that an accepted socket has from its listener and that differs,
/// as read from `from`, an accepted socket of the same listener.
void copy_inherited_options(int from, int to);

} // namespace synergy
