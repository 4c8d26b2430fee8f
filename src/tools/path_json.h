// A measured path as a JSON document, for other programs.
#pragma once

#include "hops/hop_choice.h"

#include <map>
#include <string>

namespace synergy {

/// Host names by address, as far as they are known.
using Names = std::map<std::string, std::string>;

/// The document that `synergy probe --help` describes.
std::string path_json(const Path &path, const HopChoice &choice, const Names &names);

} // namespace synergy
