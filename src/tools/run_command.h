// `synergy run`: runs a program with libsynergy.so in front.
#pragma once

#include <string>
#include <vector>

namespace synergy {

struct RunOptions {
    std::vector<std::string> peers;
    std::string hops;
    std::string config;
    std::vector<std::string> command;
};

/// Returns only where the program could not be started: the exit status.
int run_program(const RunOptions &options);

} // namespace synergy
