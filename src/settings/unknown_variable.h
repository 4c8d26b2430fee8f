// Variables of ours that nobody knows: misspelt ones.
#pragma once

#include "settings/settings.h"

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace synergy {

/// What is wrong with the name of a variable ("NAME=value"), if it begins as ours do, in capitals
/// or not, and is none of those `known`: the one that must have been meant is what is expected, or
/// else all of them.
std::optional<Problem> unknown_variable(std::string_view entry,
                                        const std::set<std::string, std::less<>> &known);

} // namespace synergy
