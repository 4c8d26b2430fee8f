// `synergy check`: what would be punched by these settings and for this command, and what can't be.
#pragma once

#include <string>
#include <vector>

namespace synergy {

struct CheckOptions {
    std::string peer;
    bool json = false;
    std::vector<std::string> command;
};

/// The exit status: 0 where nothing is wrong, 1 otherwise.
int run_check(const CheckOptions &options);

} // namespace synergy
