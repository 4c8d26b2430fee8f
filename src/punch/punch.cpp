#include "punch/punch.h"

#include "base/log.h"

#include <algorithm>
#include <cstring>

namespace synergy {

std::string Hole::text() const {
    return std::string(name(server.transport)) + " " + server.local.text() + " <- " + peer.text();
}

void Punch::next_hop_limit() {
    // Twice as far as is best, since the peer of a server that has just been started calls soon.
    constexpr unsigned at_first = 2;
    const HopRange &hops = hole_.hops;
    auto width = static_cast<unsigned>(hops.most - hops.least + 1);
    unsigned turn = punches_ < at_first ? 0 : punches_ - at_first + 1;
    turn += static_cast<unsigned>(hops.best - hops.least);
    record_.hop_limit = hops.least + static_cast<int>(turn % width);
    record_.punched = Clock::now();
    punches_++;
}

void Punch::punched() {
    if (record_.first_punched == Time{})
        record_.first_punched = record_.punched;
    record_.error = 0;
    log::debug("{}: punched, hop limit {}", hole_.text(), hop_limit());
}

void Punch::proved() {
    record_.connections++;
    record_.heard = Clock::now();
    record_.refused_at = 0;
    record_.error = 0;
    context_.proved(hole_, hop_limit());
}

void Punch::too_high() {
    record_.refused_at = hop_limit();
    context_.too_high(hole_, hop_limit());
}

void Punch::failed_by(const char *what, int error) {
    record_.error = error;
    failure_log_.failed(hole_, what, error);
}

bool Punch::adopt(const HopRange &hops) {
    if (hops.best < hole_.hops.least || hops.best > hole_.hops.most)
        return false;
    hole_.hops = hops;
    return true;
}

Duration retry_delay(unsigned failures, Duration most) {
    using std::chrono::milliseconds;
    if (failures <= 1)
        return Duration::zero();
    unsigned doublings = std::min(failures - 2, 10U);
    return std::min<Duration>(milliseconds(250) * (1 << doublings), most);
}

namespace {

const char *advice(int error) {
    switch (error) {
    case EADDRINUSE:
        return "; another socket holds the port";
    case EMFILE:
        return "; raise the limit of open files (RLIMIT_NOFILE)";
    case ENETUNREACH:
    case EADDRNOTAVAIL:
        return "; is there a route and an address of this family?";
    case EPERM:
    case EACCES:
        return "; does a firewall on this host forbid it?";
    default:
        return "";
    }
}

} // namespace

void FailureLog::failed(const Hole &hole, const char *what, int error) {
    if (error != last_)
        log::warn("{}: {}: {}{}", hole.text(), what, strerrordesc_np(error), advice(error));
    last_ = error;
}

} // namespace synergy
