#include "server/inherited_options.h"

#include "base/socket.h"
#include "server/handed_down.h"
#include "wire.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <linux/sctp.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <optional>

namespace synergy {

namespace {

constexpr socklen_t longest_read = 32;

std::optional<OptionValue> read(int fd, const HandedDownOption &option) {
    OptionValue value{.level = option.level,
                      .name = option.name,
                      .text = option.text,
                      .is_early = option.kind != OptionKind::late};
    // Of this one alone the kernel tells no other length than the one it is asked for.
    const bool is_of_one_length = option.level == IPPROTO_SCTP && option.name == SCTP_MAX_BURST;
    value.length = is_of_one_length ? sizeof(sctp_assoc_value) : longest_read;
    if (getsockopt(fd, option.level, option.name, value.bytes.data(), &value.length) != 0)
        return std::nullopt;
    // What it says of the peer can't be set.
    if (option.level == IPPROTO_SCTP && option.name == SCTP_ASSOCINFO) {
        sctp_assocparams parameters{};
        std::memcpy(&parameters, value.bytes.data(), sizeof parameters);
        parameters.sasoc_number_peer_destinations = 0;
        parameters.sasoc_peer_rwnd = parameters.sasoc_local_rwnd = 0;
        std::memcpy(value.bytes.data(), &parameters, sizeof parameters);
    }
    return value;
}

bool is_of(When when, bool is_early) {
    return when == When::ever || is_early == (when == When::before_connecting);
}

constexpr int so_buf_lock = 72; // asm-generic/socket.h, and not in every libc's headers

/// Sizes that the server did not choose follow what a connection carries, each its own.
struct Buffer {
    int name;
    int name_with_force; ///< beyond the system's limit, with CAP_NET_ADMIN
    int lock;            ///< its bit of SO_BUF_LOCK: the server chose its size
    const char *text;
};
constexpr std::array buffers{Buffer{SO_SNDBUF, SO_SNDBUFFORCE, 1, "SO_SNDBUF"},
                             Buffer{SO_RCVBUF, SO_RCVBUFFORCE, 2, "SO_RCVBUF"}};

OptionValue buffer_value(int name, const char *text, int value) {
    OptionValue made{
        .level = SOL_SOCKET, .name = name, .text = text, .is_early = true, .length = sizeof value};
    std::memcpy(made.bytes.data(), &value, sizeof value);
    return made;
}

bool give_buffer(const Buffer &buffer, int to, int size) {
    // The kernel doubles what is set (socket(7)).
    const int half = size / 2;
    if (::setsockopt(to, SOL_SOCKET, buffer.name, &half, sizeof half) == 0 &&
        get_option(to, SOL_SOCKET, buffer.name) == size)
        return true;
    return ::setsockopt(to, SOL_SOCKET, buffer.name_with_force, &half, sizeof half) == 0;
}

bool give(const OptionValue &value, int to) {
    for (const Buffer &buffer : buffers)
        if (value.level == SOL_SOCKET && value.name == buffer.name) {
            int size = 0;
            std::memcpy(&size, value.bytes.data(), sizeof size);
            return give_buffer(buffer, to, size);
        }
    return ::setsockopt(to, value.level, value.name, value.bytes.data(), value.length) == 0;
}

BufferSizes buffers_of(int fd) {
    BufferSizes found{.locks = get_option(fd, SOL_SOCKET, so_buf_lock, -1)};
    for (std::size_t i = 0; i < buffers.size(); i++)
        found.sizes.at(i) = get_option(fd, SOL_SOCKET, buffers.at(i).name);
    return found;
}

/// The sizes before what locks them: setting a size locks it.
void add_buffers(const BufferSizes &from, const BufferSizes &other, bool is_listener,
                 std::vector<OptionValue> &found) {
    for (std::size_t i = 0; i < buffers.size(); i++) {
        const Buffer &buffer = buffers.at(i);
        const int size = from.sizes.at(i);
        const bool is_locked = from.locks >= 0 && (from.locks & buffer.lock) != 0;
        const bool is_another = size != other.sizes.at(i);
        if (is_listener ? is_locked || is_another : is_locked && is_another)
            found.push_back(buffer_value(buffer.name, buffer.text, size));
    }
    if (from.locks >= 0 && (!found.empty() || from.locks != std::max(other.locks, 0)))
        found.push_back(buffer_value(so_buf_lock, "SO_BUF_LOCK", from.locks));
}

} // namespace

HandedDown handed_down_by(int fd, When when) {
    HandedDown found;
    if (when != When::afterwards)
        found.buffers = buffers_of(fd);
    found.values.reserve(handed_down.size());
    for (const HandedDownOption &option : handed_down)
        found.values.push_back(is_of(when, option.kind != OptionKind::late) ? read(fd, option)
                                                                            : std::nullopt);
    return found;
}

std::vector<OptionValue> chosen_options(int listener, const HandedDown &fresh, When when) {
    std::vector<OptionValue> chosen;
    if (when != When::afterwards)
        add_buffers(buffers_of(listener), fresh.buffers, true, chosen);
    for (std::size_t i = 0; i < handed_down.size(); i++)
        if (fresh.values[i] && is_of(when, handed_down[i].kind != OptionKind::late))
            if (auto wanted = read(listener, handed_down[i]); wanted && *wanted != *fresh.values[i])
                chosen.push_back(*wanted);
    return chosen;
}

const char *give_options(const std::vector<OptionValue> &options, int to, When when) {
    const char *missing = nullptr;
    for (const OptionValue &value : options)
        if (is_of(when, value.is_early) && !give(value, to) && missing == nullptr)
            missing = value.text;
    return missing;
}

bool begin_alike(const std::vector<OptionValue> &one, const std::vector<OptionValue> &other) {
    const auto all_in = [](const auto &some, const auto &others) {
        return std::all_of(some.begin(), some.end(), [&](const OptionValue &value) {
            return !value.is_early ||
                   std::find(others.begin(), others.end(), value) != others.end();
        });
    };
    return all_in(one, other) && all_in(other, one);
}

std::uint64_t hash_of_beginning(const std::vector<OptionValue> &options) {
    std::uint64_t all = 0; // in whatever order
    for (const OptionValue &value : options) {
        if (!value.is_early)
            continue;
        const std::array<int, 2> which{value.level, value.name};
        all += synergy_hash(synergy_hash(value.length, which.data(), sizeof which),
                            value.bytes.data(), value.length);
    }
    return all;
}

int chosen_number(const std::vector<OptionValue> &options, int level, int name) {
    int number = 0;
    for (const OptionValue &value : options)
        if (value.level == level && value.name == name)
            std::memcpy(&number, value.bytes.data(), sizeof number);
    return number;
}

namespace {

/// Whether the connection has a congestion control that the bell tells nothing of: the route to the
/// peer has one (ip-route(8), congctl), which counts more than the listener's. A bell goes another
/// way.
bool is_decided_by_route(const HandedDownOption &option, const OptionValue &present, int to) {
    if (option.level != IPPROTO_TCP || option.name != TCP_CONGESTION)
        return false;
    const Socket fresh = Socket::open(get_option(to, SOL_SOCKET, SO_DOMAIN), SOCK_STREAM);
    return read(fresh.fd(), option) != present;
}

} // namespace

const char *copy_inherited_options(int from, int to) {
    const char *missing = nullptr;
    std::vector<OptionValue> wanted_buffers;
    add_buffers(buffers_of(from), buffers_of(to), false, wanted_buffers);
    missing = give_options(wanted_buffers, to, When::ever);
    // Read only now what is to be given, since one may change another.
    for (const HandedDownOption &option : handed_down) {
        if (option.kind == OptionKind::first)
            continue;
        const auto wanted = read(from, option);
        const auto present = wanted ? read(to, option) : std::nullopt;
        if (present && *present != *wanted && !is_decided_by_route(option, *present, to) &&
            !give(*wanted, to) && missing == nullptr)
            missing = option.text;
    }
    return missing;
}

} // namespace synergy
