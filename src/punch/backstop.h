// What stands behind the socket that punches for TCP, and takes what comes while that one is not
// there.
#pragma once

#include "punch/punch.h"

namespace synergy {

/// A socket with the hole's four-tuple that has sent nothing and hears nothing. Whatever ends the
/// punching one (an error, or that nobody was there in time to prepare its next SYN), the peer's
/// SYN is lost with this one then, and comes again. It would get to the listener otherwise, whose
/// number no firewall expects: the peer would not get in for two minutes, and the listener's half
/// of a connection would keep the four-tuple from being punched with for one.
/// To be made before the punching one connects: the kernel finds the latest first. Empty where it
/// can't be had; nothing has been sent then, or no further than to the next hop. `route`: by which
/// the peer's packets come, as far as can be known.
Socket backstop_of(const Hole &hole, const Settings &settings, const Route &route);

} // namespace synergy
