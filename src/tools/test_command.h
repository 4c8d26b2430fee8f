// `synergy test`: at both ends, whether two firewalls can be passed.
#pragma once

#include <string>
#include <vector>

namespace synergy {

struct TestOptions {
    std::string peer;
    std::string from;
    std::string hops;
    std::vector<unsigned> idle{10, 30, 60};
    bool json = false;
};

/// The exit status: 0 where anything passes, 1 where nothing does, 2 where nothing was tried.
int run_test(const TestOptions &options);

} // namespace synergy
