#include "base/libc_calls.h"

#include <sys/socket.h>
#include <unistd.h>

namespace synergy {

namespace {

const synergy_libc by_name = {
    .bind = ::bind,
    .listen = ::listen,
    .accept4 = ::accept4,
    .close = ::close,
    .recvmsg = ::recvmsg,
    .socket = ::socket,
    .connect = ::connect,
    .setsockopt = ::setsockopt,
    .sendmsg = ::sendmsg,
    .pass_this_thread = [] {},
};

// Written before the first use of the engine, read everywhere.
const synergy_libc *in_force = &by_name;

} // namespace

const synergy_libc &libc() {
    return *in_force;
}

void use_libc(const synergy_libc *table) {
    in_force = table;
}

} // namespace synergy
