#include "punch.h"

#include "log.h"

#include <algorithm>
#include <cstring>

namespace synergy {

std::string Hole::text() const {
    return std::string(name(transport)) + " " + server.local.text() + " <- " + peer.text();
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
        return "; another socket holds the port, or the server has changed its user";
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
