// libc's functions as the engine must call them: under a preload the plain names are the hooks.
#pragma once

#include "keeper/engine_table.h"

namespace synergy {

/// The functions in force: the shim's under a preload, else libc's by name.
const synergy_libc &libc();

/// Puts other functions there; `table` must stay alive. Set before the engine's first use, or by a
/// test while nothing of the engine runs.
void use_libc(const synergy_libc *table);

} // namespace synergy
