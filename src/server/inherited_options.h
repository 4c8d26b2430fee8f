// What the kernel's accept() hands down from a listener to its connections, for connections that
// were made another way.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include <sys/socket.h>

namespace synergy {

/// An option as a socket has it.
struct OptionValue {
    int level = 0;
    int name = 0;
    const char *text = ""; ///< its name
    bool is_early = false; ///< counts from the first SYN or INIT on
    socklen_t length = 0;
    std::array<std::uint8_t, 216> bytes{}; ///< a key is the longest

    bool operator==(const OptionValue &) const = default;
};

/// Which options: those that count from the first packet on, the others, or all.
enum class When : std::uint8_t { before_connecting, afterwards, ever };

/// The sizes of a socket's buffers, and which of them it was told (SO_BUF_LOCK; -1: before Linux
/// 5.14 nothing tells).
struct BufferSizes {
    std::array<int, 2> sizes{};
    int locks = -1;
};

/// What a socket has of all that a listener hands down.
struct HandedDown {
    /// As in handed_down.h; nullopt for what such a socket has not, or what is not asked for.
    std::vector<std::optional<OptionValue>> values;
    BufferSizes buffers;
};
HandedDown handed_down_by(int fd, When when);
/// Those of a listener's that differ from a new socket's, which has `fresh`.
std::vector<OptionValue> chosen_options(int listener, const HandedDown &fresh, When when);

/// Gives them to a socket. The name of the first that could not be given, for want of a right
/// mostly; nullptr where all could.
const char *give_options(const std::vector<OptionValue> &options, int to, When when);

/// Whether those that count from the first packet on are the same.
bool begin_alike(const std::vector<OptionValue> &one, const std::vector<OptionValue> &other);

/// A number by which other keepers tell whether theirs are the same.
std::uint64_t hash_of_beginning(const std::vector<OptionValue> &options);

/// The value of one of them that is an int; 0 where it is none of them.
int chosen_number(const std::vector<OptionValue> &options, int level, int name);

/// Gives `to` every option that an accepted socket has from its listener and that differs, as read
/// from `from`, an accepted socket of the same listener. The name of the first that could not be
/// given; nullptr where all could.
const char *copy_inherited_options(int from, int to);

} // namespace synergy
