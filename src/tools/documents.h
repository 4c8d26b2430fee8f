// What `--json` prints, for other programs. (In one file: it takes the compiler long to write
// JSON.)
#pragma once

#include "hops/hop_choice.h"
#include "tools/path_picture.h"
#include "tools/test_report.h"

#include <string>
#include <vector>

namespace synergy {

/// The document that `synergy probe --help` describes.
std::string path_json(const Path &path, const HopChoice &choice, const Names &names);

/// The document that `synergy test --help` describes.
std::string report_json(const TestReport &report);

/// What `synergy check` has found out: a line for a person.
struct Finding {
    bool is_wrong;
    std::string text;
};

/// The document that check.schema.json describes.
std::string findings_json(bool is_ok, const std::vector<Finding> &findings);

} // namespace synergy
