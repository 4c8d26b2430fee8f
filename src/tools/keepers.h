// The keepers of this network namespace, as `synergy status` finds and asks them.
#pragma once

#include <nlohmann/json.hpp>

namespace synergy {

/// What every keeper of this user says, of every user for root: the document that
/// status.schema.json describes. Throws std::system_error where they can't be looked for.
nlohmann::ordered_json ask_keepers();

} // namespace synergy
