// Why this host has no socket at a port for `synergy test`, in words.
#pragma once

#include "base/endpoint.h"

#include <string>

namespace synergy {

/// What `error`, of binding a socket of this transport there, comes from: of a port that is in use,
/// also by what, as /proc/net has it.
std::string why_not_bound(int error, Transport transport, const Endpoint &at);

} // namespace synergy
