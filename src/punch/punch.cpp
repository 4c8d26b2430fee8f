#include "punch/punch.h"

#include "base/log.h"
#include "hops/addresses.h"
#include "punch/failure.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace synergy {

std::string Hole::text() const {
    return server.text() + " <- " + peer.text();
}

std::string Hole::way_text() const {
    return server.text() + " <- " + peer.unmapped().address_text();
}

Endpoint Hole::source(const Settings &settings) const {
    return server.local.is_wildcard() ? settings.local_for(peer.unmapped().family()) : server.local;
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

bool Punch::punched(const Endpoint &from) {
    if (record_.first_punched == Time{})
        record_.first_punched = record_.punched;
    record_.error = 0;
    log::debug("{}: punched, hop limit {}", hole_.text(), hop_limit());
    if (link_objection(from, hole_.peer).empty())
        return true;
    failed_here(EADDRNOTAVAIL);
    return false;
}

void Punch::has_come_in() {
    record_.connections++;
    record_.heard = Clock::now();
    record_.refused_at = 0;
    record_.error = 0;
}

void Punch::proved() {
    has_come_in();
    context_.owner.proved(hole_, hop_limit());
}

void Punch::refused(const IcmpError &how) {
    // Who knows no way on is not too far away.
    if (how.answer != HopAnswer::unreachable)
        record_.refused_at = hop_limit();
    context_.owner.refused(hole_, hop_limit(), how);
}

void Punch::failed_here(int error) {
    failed_by(local_cause(error, hole_.server.local, hole_.peer, context_.settings,
                          hole_.server.transport),
              error);
}

void Punch::failed_by(const std::string &cause, int error) {
    record_.error = error;
    record_.cause = cause;
    failure_log_.failed(hole_, cause);
}

/// By then the next one has left, too.
void Punch::recovered() {
    record_.error = 0;
    failure_log_.recovered(Duration(context_.settings.refresh) * 3 / 2);
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

void FailureLog::failed(const Hole &hole, const std::string &cause) {
    std::string line = hole.way_text() + ": can't punch: " + cause;
    is_open_ = true;
    over_.cancel();
    if (line != said_) {
        log::take_back(said_);
        said_ = std::move(line);
    }
    log::warn_once(said_);
}

/// What lets a part of all punches pass, by a rate, is over again and again: it has to be so for
/// longer each time.
void FailureLog::recovered(Duration for_sure) {
    constexpr unsigned doublings = 6;
    if (!std::exchange(is_open_, false))
        return;
    over_.set(Clock::now() + for_sure * (1 << std::min(times_, doublings)), [this] {
        log::over(std::exchange(said_, {}));
        times_++;
    });
}

} // namespace synergy
