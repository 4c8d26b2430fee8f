// How settings come about: the environment first, then the config file and the directory beside it.
#pragma once

#include "base/environment.h"
#include "settings/settings.h"

namespace synergy {

/// Reads the environment and the config file that it names or that stands in the default places.
/// Never throws for what it reads: what can't be used is in `problems`, and nothing is punched for
/// it (a peer that is wrong is left out; with a wrong hop limit, port, address or interval there
/// are no rules at all).
/// `all`: of which variables there are ("NAME=value"), those of ours that nobody knows are
/// problems.
Settings load_settings(const Environment &environment, const char *const *all = nullptr);

/// Reads of the file of `settings` again who is a peer, on what ports and with what hop limits,
/// with the same variables of the environment; everything else stays. Of a file with any mistake
/// nothing is taken, but what it said before stays: for synergy.toml and for each file of peers.d
/// by itself.
Settings reload_settings(const Settings &settings);

} // namespace synergy
