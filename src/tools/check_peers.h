// The peers of the settings, as `synergy check` looks at them before there is a server.
#pragma once

#include "settings/settings.h"
#include "tools/findings.h"

namespace synergy {

/// What is known of the way to each peer, and on which hop a punch would die: the paths are
/// measured for that, which takes some seconds.
void check_peers(const Settings &settings, Findings &findings);

} // namespace synergy
