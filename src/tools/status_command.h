// `synergy status`: what the keepers of preloaded servers say of their holes.
#pragma once

namespace synergy {

struct StatusOptions {
    bool watch = false;
    bool json = false;
};

/// The exit status: 0, or 2 where nothing could be asked.
int run_status(const StatusOptions &options);

} // namespace synergy
