// The engine as the shim sees it: a table of C functions from which no exception escapes. errno is
// the shim's affair.
#include "base/libc_calls.h"
#include "base/log.h"
#include "keeper/engine.h"
#include "keeper/engine_table.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace {

using namespace synergy;

/// The server must not feel that anything went wrong here: the log says it, the call goes on.
template <typename Call> auto guarded(Call call) noexcept -> decltype(call()) {
    try {
        return call();
    } catch (const std::exception &error) {
        log::error("{}", error.what());
    } catch (...) {
        log::error("unknown error");
    }
    return decltype(call())();
}

const synergy_engine table = {
    .listening = [](int fd) { return guarded([&] { return engine::listening(fd); }); },
    .bound =
        [](int fd, const sockaddr *address, socklen_t length) {
            return guarded([&] { return engine::bound(fd, Endpoint::from(address, length)); });
        },
    .give_way = [] { return guarded([] { return int(engine::give_way()); }); },
    .accepted =
        [](int listener, int fd, int flags, sockaddr_storage *peer, socklen_t *length) {
            return guarded([&] {
                Endpoint from;
                synergy_accepted found = engine::accepted(listener, fd, flags, from);
                if (found == SYNERGY_REPLACED) {
                    std::memcpy(peer, from.data(), from.length());
                    *length = from.length();
                }
                return found;
            });
        },
    .receiving = [](int fd) { return guarded([&] { return engine::receiving(fd); }); },
    .waiting = [](int fd) { return guarded([&] { return engine::waiting(fd); }); },
    .received =
        [](int fd, const sockaddr *peer, socklen_t length) {
            guarded([&] { engine::received(fd, Endpoint::from(peer, length)); });
        },
    .sent =
        [](int fd, const sockaddr *peer, socklen_t length) {
            guarded([&] { engine::sent(fd, Endpoint::from(peer, length)); });
        },
    .open_toward =
        [](int fd, const sockaddr *peer, socklen_t length, int hop_limit) {
            return guarded([&] { return engine::open_toward(fd, peer, length, hop_limit); });
        },
    .closing = [](int fd) { return guarded([&] { return int(engine::closing(fd)); }); },
};

} // namespace

extern "C" __attribute__((visibility("default"))) synergy_engine_open_fn synergy_engine_open;

extern "C" const synergy_engine *synergy_engine_open(const synergy_libc *libc) {
    use_libc(libc);
    return guarded([]() -> const synergy_engine * {
        engine::start(load_settings([](const char *name) { return secure_getenv(name); }));
        return &table;
    });
}
