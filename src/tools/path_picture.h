// A measured path for a person: hop by hop, round trips as bars, and where the punch dies.
#pragma once

#include "hops/hop_choice.h"

#include <map>
#include <string>
#include <vector>

namespace synergy {

/// Host names by address, as far as they are known.
using Names = std::map<std::string, std::string>;

struct Style {
    bool color = false;
    bool unicode = false;
    int columns = 120; ///< of the terminal, if it is one
};

/// One line each. Without a choice, the path is still being measured.
std::vector<std::string> path_picture(const Path &path, const HopChoice *choice, const Names &names,
                                      const Style &style);

} // namespace synergy
