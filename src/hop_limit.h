// How far a punch goes.
#pragma once

#include "settings.h"

namespace synergy {

/// The hop limit for a target: its own, or the guess where it is automatic.
inline int choose_hop_limit(const Target &target) {
    return target.hops != 0 ? target.hops : hop_limit_guess;
}

} // namespace synergy
