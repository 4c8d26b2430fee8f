#include "keeper/hole_begins.h"

#include <algorithm>

namespace synergy {

std::shared_ptr<HoleBegin> HoleBegins::of(const Hole &hole, Duration lifetime) {
    constexpr std::size_t most = 4096; // then those are forgotten that firewalls have forgotten
    if (begins_.size() >= std::max(most, 2 * left_)) {
        std::erase_if(begins_, [now = Clock::now()](const auto &each) {
            return each.second.use_count() == 1 && each.second->ends() < now;
        });
        left_ = begins_.size();
    }
    std::shared_ptr<HoleBegin> &begin = begins_[hole.text()];
    if (!begin)
        begin = std::make_shared<HoleBegin>(lifetime);
    return begin;
}

} // namespace synergy
