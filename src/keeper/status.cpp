#include "keeper/status.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace synergy {

namespace {

using Json = nlohmann::ordered_json;
using std::chrono::seconds;

/// A peer that has not come for so long may be kept from it.
constexpr Duration long_without_sign = seconds(60);
/// RFC 4787 REQ-5: a UDP hole "MUST NOT expire in less than two minutes" once it is in use.
constexpr Duration conversation = seconds(120);

Json age(Time time) {
    if (time == Time{})
        return nullptr;
    const auto tenths = std::chrono::duration_cast<std::chrono::milliseconds>(
                            std::max(Clock::now() - time, Duration::zero())) /
                        100;
    return static_cast<double>(tenths.count()) / 10;
}

Json address(const Endpoint &endpoint) {
    return endpoint.empty() ? Json(nullptr) : Json(endpoint.unmapped().address_text());
}

/// What a connection that came through the hole does now.
const char *state_in_use(const HoleStatus &status, SocketDiag &socket_diag) {
    const Hole &hole = status.hole;
    if (hole.server.transport != Transport::tcp)
        return "connected";
    const Endpoint &local = hole.server.local;
    const Endpoint end = local.is_wildcard() ? status.source.with_port(local.port()) : local;
    const auto found = end.family() == AF_INET6 && !end.is_v4_mapped()
                           ? socket_diag.who_hears(hole.peer, end, 0)
                           : socket_diag.who_hears(hole.peer.unmapped(), end.unmapped(), 0);
    if (!found || found->listens)
        return "resting"; // in the peer's memory, or for the moment until the next punch
    return found->rests ? "resting" : "connected";
}

const char *state_of(const HoleStatus &status, Time heard, SocketDiag &socket_diag) {
    const HoleRecord &record = status.record;
    const Time now = Clock::now();
    if (status.is_in_use && record.connections > 0)
        return state_in_use(status, socket_diag);
    if (status.hole.server.transport == Transport::udp && heard != Time{} &&
        now - heard < conversation)
        return "connected";
    if (status.is_refused || (record.refused_at != 0 && record.refused_at <= record.hop_limit))
        return "refused";
    if (record.error != 0)
        return "failing";
    if (record.first_punched == Time{})
        return "opening";
    return heard == Time{} && now - record.first_punched >= long_without_sign ? "silent" : "open";
}

Json hole_json(const HoleStatus &status, SocketDiag &socket_diag, const Traffic &traffic) {
    const Hole &hole = status.hole;
    const HoleRecord &record = status.record;
    Time heard = record.heard;
    if (hole.server.transport == Transport::udp)
        if (const auto last = traffic.last(SYNERGY_RECEIVED, hole.server.cookie, hole.peer))
            heard = std::max(heard, *last);
    const std::string state = state_of(status, heard, socket_diag);
    Json json = {{"peer", hole.peer.unmapped().text()},
                 {"source", address(status.source)},
                 {"hop_limit", record.hop_limit},
                 {"router", address(status.router)},
                 {"state", state}};
    if (state == "refused")
        json["refused_at"] = record.refused_at != 0 ? record.refused_at : record.hop_limit;
    if (state == "failing")
        json["error"] = record.cause;
    json["last_punch_s"] = record.first_punched == Time{} ? Json(nullptr) : age(record.punched);
    json["last_sign_s"] = age(heard);
    if (hole.server.transport != Transport::udp)
        json["connections"] = hole.server.one_to_many ? record.connections : record.handed_over;
    return json;
}

} // namespace

std::string status_document(const std::vector<SocketStatus> &sockets,
                            const std::vector<pid_t> &processes, SocketDiag &socket_diag,
                            const Traffic &traffic) {
    Json document = {{"pid", getpid()}, {"user", geteuid()}, {"processes", processes}};
    Json &all = document["sockets"] = Json::array();
    for (const SocketStatus &status : sockets) {
        Json json = {{"protocol", name(status.socket.transport)},
                     {"local", status.socket.local.text()},
                     {"holes", Json::array()},
                     {"without_hole", Json::array()}};
        for (const HoleStatus &hole : status.holes)
            json["holes"].push_back(hole_json(hole, socket_diag, traffic));
        for (const Unpunched &unpunched : status.unpunched)
            json["without_hole"].push_back(
                {{"peer", unpunched.peer.text()}, {"reason", unpunched.reason}});
        all.push_back(std::move(json));
    }
    return document.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Socket in_memory(const std::string &content) {
    Socket file(memfd_create("synergy-status", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    std::size_t written = 0;
    while (file && written < content.size()) {
        const ssize_t count =
            ::write(file.fd(), content.data() + written, content.size() - written);
        if (count > 0)
            written += static_cast<std::size_t>(count);
        else if (errno != EINTR)
            file.reset();
    }
    if (file)
        fcntl(file.fd(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
    return file;
}

} // namespace synergy
