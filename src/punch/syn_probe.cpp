#include "punch/syn_probe.h"

#include "punch/beside.h"

#include <cerrno>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <utility>

namespace synergy {

bool SynProbe::ask(const Endpoint &from, const Endpoint &peer, int hop_limit, Duration patience,
                   std::function<void(int error)> know) {
    stop();
    const Endpoint any_port = from.with_port(0);
    socket_ = Socket::open(peer.family(), SOCK_STREAM, IPPROTO_TCP);
    set_hop_limit(socket_, false, hop_limit);
    if (!socket_ || ::bind(socket_.fd(), any_port.data(), any_port.length()) != 0 ||
        (::connect(socket_.fd(), peer.data(), peer.length()) != 0 && errno != EINPROGRESS) ||
        !scheduler_.watch(socket_.fd(), EPOLLOUT, [this](std::uint32_t) {
            answered(socket_.get(SOL_SOCKET, SO_ERROR, 0));
        })) {
        socket_.reset();
        return false;
    }
    know_ = std::move(know);
    timer_.set(Clock::now() + patience, [this] { answered(ETIMEDOUT); });
    return true;
}

void SynProbe::answered(int error) {
    stop();
    const auto know = std::move(know_); // it may ask again
    know(error);
}

void SynProbe::stop() {
    timer_.cancel();
    if (socket_)
        scheduler_.unwatch(socket_.fd());
    socket_.reset();
}

} // namespace synergy
