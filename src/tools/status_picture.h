// What the keepers say, for a person: a table for each socket of a server.
#pragma once

#include "tools/path_picture.h"

#include <nlohmann/json.hpp>

namespace synergy {

/// One line each, of the document that status.schema.json describes.
std::vector<std::string> status_picture(const nlohmann::ordered_json &status, const Style &style);

} // namespace synergy
