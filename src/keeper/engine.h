// What the engine does for a server, in the server's own threads: it decides whether a socket is to
// be punched for, and asks the engine's thread. The shim, listendemo and tests call it.
#pragma once

#include "keeper/engine_table.h"
#include "settings/settings.h"

namespace synergy::engine {

/// Takes the settings, once a process and before anything else; says what is wrong with them.
void start(Settings settings);

/// What synergy_to() in sys/socketsynergy.h says, but for returning 0 or an errno.
int open_toward(int fd, const sockaddr *peer, socklen_t length, int hop_limit);

/// What the shim asks: see synergy_engine in engine_table.h.
synergy_mark listening(int fd);
synergy_mark bound(int fd, const Endpoint &local);
synergy_mark receiving(int fd);
synergy_mark waiting(int fd);
bool give_way();
synergy_accepted accepted(int listener, int fd, int flags, Endpoint &peer);
void received(int fd, const Endpoint &peer);
void sent(int fd, const Endpoint &peer);
bool closing(int fd);

} // namespace synergy::engine
