#include "hops/path.h"

#include <algorithm>

namespace synergy {

const char *name(HopAnswer answer) {
    switch (answer) {
    case HopAnswer::none:
        return "none";
    case HopAnswer::time_exceeded:
        return "time-exceeded";
    case HopAnswer::prohibited:
        return "prohibited";
    case HopAnswer::unreachable:
        return "unreachable";
    case HopAnswer::refused:
        return "refused";
    case HopAnswer::accepted:
        return "accepted";
    }
    return "?";
}

const Hop *Path::end() const {
    const auto found = std::find_if(hops.begin(), hops.end(), [](const Hop &hop) {
        return hop.answer != HopAnswer::none && hop.answer != HopAnswer::time_exceeded;
    });
    return found == hops.end() ? nullptr : &*found;
}

int Path::last_answer() const {
    const auto found = std::find_if(hops.rbegin(), hops.rend(),
                                    [](const Hop &hop) { return hop.answer != HopAnswer::none; });
    return found == hops.rend() ? 0 : found->limit;
}

} // namespace synergy
