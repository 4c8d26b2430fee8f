// What one-to-one and one-to-many sockets have in common (RFC 6458; <linux/sctp.h>).
#pragma once

#include <sys/socket.h> // before linux/sctp.h

#include <cstdint>

#include <linux/sctp.h>
#include <netinet/in.h>

namespace synergy::sctp {

template <typename T> bool set(int fd, int option, const T &value) {
    return ::setsockopt(fd, IPPROTO_SCTP, option, &value, sizeof value) == 0;
}

/// `value` is question and answer: many options are of the association that it names.
template <typename T> bool get(int fd, int option, T &value) {
    socklen_t length = sizeof value;
    return getsockopt(fd, IPPROTO_SCTP, option, &value, &length) == 0;
}

/// SCTP_EMPTY where there is none. A one-to-one socket says nothing before it is established.
int state_of(int fd, sctp_assoc_t association);

/// Has the kernel send heartbeats on an idle association as often as firewalls need them.
void keep_alive(int fd, sctp_assoc_t association);

} // namespace synergy::sctp
