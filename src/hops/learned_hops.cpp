#include "hops/learned_hops.h"

#include "base/hop_limit.h"
#include "base/ownership.h"
#include "base/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string_view>
#include <vector>

namespace synergy {

namespace {

constexpr std::string_view first_line = "synergy hops 1\n"; ///< tells our file from any other
constexpr std::size_t file_size_max = std::size_t{64} * 1024;
constexpr std::size_t entries_max = 256; ///< the latest; well within file_size_max
constexpr std::int64_t age_max = 30L * 24 * 3600;

/// The longest prefixes that networks commonly announce to each other: what is within one shares
/// the way there.
constexpr int prefix_v6 = 48;
constexpr int prefix_v4 = 24;

struct Entry {
    RouteKey route;
    int hops = 0;
    int path_length = 0;
    std::int64_t when = 0; ///< seconds since the epoch
};

struct Content {
    int error = 0; ///< other than 0: the file is none of ours, or can't be used
    std::vector<Entry> entries;
};

template <typename Number>
bool parse(std::string_view text, Number least, Number most, Number &number) {
    const auto [stopped, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return error == std::errc() && stopped == text.data() + text.size() && number >= least &&
           number <= most;
}

/// "2001:db8:b::/48 2001:db8:a::11 2001:db8:a::1 3 5 1700000000"; false for anything else, and for
/// what is too old or of the future.
bool parse_entry(std::string_view line, std::int64_t now, Entry &entry) {
    std::array<std::string_view, 6> fields;
    for (std::string_view &field : fields) {
        const std::size_t end = std::min(line.find(' '), line.size());
        field = line.substr(0, end);
        if (field.empty())
            return false;
        line.remove_prefix(std::min(end + 1, line.size()));
    }
    entry.route = {std::string(fields[0]), std::string(fields[1]), std::string(fields[2])};
    return line.empty() && parse(fields[3], hop_limit_min, hop_limit_max, entry.hops) &&
           parse(fields[4], 0, hop_limit_max, entry.path_length) &&
           parse(fields[5], now - age_max, now, entry.when);
}

std::string line_of(const Entry &entry) {
    return entry.route.peer + " " + entry.route.own + " " + entry.route.gateway + " " +
           std::to_string(entry.hops) + " " + std::to_string(entry.path_length) + " " +
           std::to_string(entry.when) + "\n";
}

/// Appends what is in the file; 0, or an errno.
int read_own_file(const std::string &path, std::string &text) {
    const Socket file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!file)
        return errno;
    struct stat status {};
    if (::fstat(file.fd(), &status) != 0)
        return errno;
    // What another user may write to is not to be believed.
    if (!S_ISREG(status.st_mode) || status.st_uid != ::geteuid() ||
        (status.st_mode & (S_IWGRP | S_IWOTH)) != 0)
        return EPERM;
    if (status.st_size > static_cast<off_t>(file_size_max))
        return EFBIG;
    text.resize(file_size_max);
    std::size_t length = 0;
    for (ssize_t count = 1; count > 0 && length < text.size();) {
        count = ::read(file.fd(), text.data() + length, text.size() - length);
        if (count < 0 && errno != EINTR)
            return errno;
        length += static_cast<std::size_t>(std::max<ssize_t>(count, 0));
        if (count < 0)
            count = 1;
    }
    text.resize(length);
    return 0;
}

Content read_entries(const std::string &path, std::int64_t now) {
    std::string text;
    Content content;
    content.error = read_own_file(path, text);
    if (content.error == ENOENT)
        return {};
    // (An empty file is what a crash of the machine can leave.)
    if (content.error != 0 || text.empty())
        return content;
    std::string_view rest = text;
    if (!rest.starts_with(first_line)) {
        content.error = EPERM;
        return content;
    }
    rest.remove_prefix(first_line.size());
    // A line without its end may have lost more than that.
    for (std::size_t end = rest.find('\n'); end != std::string_view::npos; end = rest.find('\n')) {
        Entry entry;
        if (parse_entry(rest.substr(0, end), now, entry))
            content.entries.push_back(std::move(entry));
        rest.remove_prefix(end + 1);
    }
    return content;
}

int make_directories(const std::string &file) {
    // None in the root directory itself: HOME=/nonexistent says that there is none.
    for (std::size_t slash = file.find('/', file.find('/', 1) + 1); slash != std::string::npos;
         slash = file.find('/', slash + 1))
        // 0700: XDG Base Directory wants it of a directory that has to be made.
        if (::mkdir(file.substr(0, slash).c_str(), 0700) != 0 && errno != EEXIST &&
            errno != EROFS && errno != EACCES)
            return errno;
    return 0;
}

int write_all(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t count = ::write(fd, text.data(), text.size());
        if (count < 0 && errno != EINTR)
            return errno;
        text.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    }
    return 0;
}

/// Readers see the old file or the new one, never a part.
int replace_file(const std::string &path, std::string_view text) {
    std::string temporary = path + ".XXXXXX";
    Socket file(::mkostemp(temporary.data(), O_CLOEXEC));
    if (!file)
        return errno;
    int error = write_all(file.fd(), text);
    file.reset();
    if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0)
        error = errno;
    if (error != 0)
        ::unlink(temporary.c_str());
    return error;
}

std::string prefix_of(const Endpoint &address) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    if (address.family() == AF_INET) {
        in_addr in = reinterpret_cast<const sockaddr_in *>(address.data())->sin_addr;
        in.s_addr &= htonl(~0U << (32 - prefix_v4));
        inet_ntop(AF_INET, &in, text.data(), text.size());
        return std::string(text.data()) + "/" + std::to_string(prefix_v4);
    }
    in6_addr in6 = reinterpret_cast<const sockaddr_in6 *>(address.data())->sin6_addr;
    std::fill(std::begin(in6.s6_addr) + prefix_v6 / 8, std::end(in6.s6_addr), 0);
    inet_ntop(AF_INET6, &in6, text.data(), text.size());
    return std::string(text.data()) + "/" + std::to_string(prefix_v6);
}

} // namespace

RouteKey RouteKey::from(const Endpoint &peer, const Route &route) {
    const auto text = [](const Endpoint &address) {
        return address.empty() ? std::string("-") : address.address_text();
    };
    std::string gateway = text(route.gateway);
    // A link-local gateway is one of its link only: the same address elsewhere is another.
    if (gateway.starts_with("fe80:"))
        gateway.append("%").append(std::to_string(route.interface));
    return {prefix_of(peer.unmapped()), text(route.source.unmapped()), std::move(gateway)};
}

std::string learned_hops_file(const Environment &environment) {
    if (getauxval(AT_SECURE) != 0)
        return {};
    const auto variable = [&](const char *name) -> std::string {
        const char *text = environment(name);
        return text != nullptr ? text : "";
    };
    // XDG Base Directory: what is not absolute is to be ignored.
    if (const std::string state = variable("XDG_STATE_HOME"); state.starts_with('/'))
        return state + "/synergy/hops";
    if (const std::string home = variable("HOME"); home.starts_with('/'))
        return home + "/.local/state/synergy/hops";
    return {};
}

std::optional<LearnedHops> find_learned_hops(const std::string &file, const RouteKey &route) {
    if (file.empty() || others_can_change(file))
        return std::nullopt;
    const std::int64_t now = std::time(nullptr);
    for (const Entry &entry : read_entries(file, now).entries)
        if (entry.route == route)
            return LearnedHops{.hops = entry.hops,
                               .path_length = entry.path_length,
                               .age = std::chrono::seconds(now - entry.when)};
    return std::nullopt;
}

int make_place_for(const std::string &file) {
    // In somebody else's home root would make directories and files wherever his links lead.
    if (others_can_change(file))
        return EPERM;
    if (const int error = make_directories(file))
        return error;
    return others_can_change(file) ? EPERM : 0; // who was faster
}

int store_learned_hops(const std::string &file, const RouteKey &route, int hops, int path_length) {
    if (file.empty())
        return ENOENT;
    const std::int64_t now = std::time(nullptr);
    Content content = read_entries(file, now);
    if (content.error != 0)
        return content.error;
    std::vector<Entry> &entries = content.entries;
    std::erase_if(entries, [&](const Entry &entry) { return entry.route == route; });
    entries.push_back({route, hops, path_length, now});
    // Stored in the order of time.
    if (entries.size() > entries_max)
        entries.erase(entries.begin(), entries.end() - entries_max);
    std::string text(first_line);
    for (const Entry &entry : entries)
        text += line_of(entry);
    if (const int error = make_place_for(file))
        return error;
    return replace_file(file, text);
}

} // namespace synergy
