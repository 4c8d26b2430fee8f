#include "server/sctp_socket.h"

namespace synergy::sctp {

int state_of(int fd, sctp_assoc_t association) {
    sctp_status status{};
    status.sstat_assoc_id = association;
    return get(fd, SCTP_STATUS, status) ? status.sstat_state : static_cast<int>(SCTP_EMPTY);
}

void keep_alive(int fd, sctp_assoc_t association) {
    // The Linux tracker takes what a simultaneous set-up has made for CLOSED, and forgets it 10 s
    // after its last packet. The kernel's heartbeats are further apart by a retransmission
    // time-out, 1 s at least, give or take its half: two may be lost.
    constexpr std::uint32_t interval_ms = 1000;
    sctp_paddrparams parameters{};
    parameters.spp_assoc_id = association;
    parameters.spp_hbinterval = interval_ms;
    parameters.spp_flags = SPP_HB_ENABLE;
    set(fd, SCTP_PEER_ADDR_PARAMS, parameters);
    // At once, since what was set counts from the next one on; its answer measures the round trip.
    parameters.spp_hbinterval = 0;
    parameters.spp_flags = SPP_HB_DEMAND;
    set(fd, SCTP_PEER_ADDR_PARAMS, parameters);
}

} // namespace synergy::sctp
