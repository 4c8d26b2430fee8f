#include "server/call_filters.h"

#include "base/socket.h"

#include <array>
#include <charconv>
#include <fcntl.h>
#include <string_view>
#include <unistd.h>

namespace synergy {

namespace {

/// Empty where there is none of that name.
std::string_view field(std::string_view text, std::string_view name) {
    const std::size_t at = text.find(name);
    if (at == std::string_view::npos)
        return {};
    text.remove_prefix(at + name.size());
    return text.substr(0, text.find('\n'));
}

} // namespace

std::optional<CallFilters> call_filters_of(pid_t process) {
    const std::string path = "/proc/" + std::to_string(process) + "/status";
    const Socket file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::array<char, 4096> room{};
    const ssize_t size = ::read(file.fd(), room.data(), room.size());
    if (size <= 0)
        return std::nullopt;
    const std::string_view text(room.data(), static_cast<std::size_t>(size));
    CallFilters filters{.program = std::string(field(text, "Name:\t"))};
    const std::string_view count = field(text, "\nSeccomp_filters:\t");
    if (std::from_chars(count.data(), count.data() + count.size(), filters.count).ec != std::errc())
        return std::nullopt;
    return filters;
}

} // namespace synergy
