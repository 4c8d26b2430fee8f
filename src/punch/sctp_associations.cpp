#include "punch/sctp_associations.h"

#include <array>
#include <cstdio>
#include <fcntl.h>
#include <sstream>
#include <unistd.h>

namespace synergy {

namespace {

/// An address as the list has it: IPv6 at full length.
std::string list_text(const Endpoint &address) {
    if (address.family() != AF_INET6)
        return address.address_text();
    const auto &bytes = reinterpret_cast<const sockaddr_in6 *>(address.data())->sin6_addr.s6_addr;
    std::string text;
    for (std::size_t i = 0; i < sizeof bytes; i += 2) {
        std::array<char, 8> group{};
        std::snprintf(group.data(), group.size(), i == 0 ? "%02x%02x" : ":%02x%02x", bytes[i],
                      bytes[i + 1]);
        text += group.data();
    }
    return text;
}

bool is_address(const std::string &word) {
    return word.find_first_of(":.") != std::string::npos;
}

/// Whether it stands among the addresses that follow. (An asterisk marks a primary one.)
bool stands_next(std::istringstream &words, const std::string &address) {
    bool found = false;
    std::string word;
    while (words >> word && is_address(word))
        found = found || word == address || word == "*" + address;
    return found;
}

} // namespace

SctpAssociation read_association(const std::string &line, const Endpoint &local,
                                 const Endpoint &peer) {
    // Its columns: seven that don't matter, what is queued to be sent, three more, both ports,
    // local addresses, "<->", the peer's, and more numbers.
    std::istringstream words(line);
    std::string ignored;
    for (int column = 0; column < 7; column++)
        words >> ignored;
    SctpAssociation found;
    words >> found.queued >> ignored >> ignored >> ignored;
    unsigned local_port = 0, peer_port = 0;
    if (!(words >> local_port >> peer_port) || local_port != local.port() ||
        peer_port != peer.port())
        return {};
    // (Sequenced: the first call reads past "<->".)
    bool is_local = stands_next(words, list_text(local.unmapped()));
    bool is_peer = stands_next(words, list_text(peer.unmapped()));
    found.is_there = is_peer && (is_local || local.is_wildcard());
    return found.is_there ? found : SctpAssociation{};
}

SctpAssociations::SctpAssociations()
    : list_(::open("/proc/thread-self/net/sctp/assocs", O_RDONLY | O_CLOEXEC)) {}

std::optional<SctpAssociation> SctpAssociations::find(const Endpoint &local,
                                                      const Endpoint &peer) const {
    if (!list_ || lseek(list_.fd(), 0, SEEK_SET) != 0)
        return std::nullopt;
    std::string text;
    std::array<char, 4096> buffer{};
    ssize_t got;
    while ((got = ::read(list_.fd(), buffer.data(), buffer.size())) > 0)
        text.append(buffer.data(), static_cast<std::size_t>(got));
    if (got < 0)
        return std::nullopt;
    std::istringstream lines(text);
    std::string line;
    while (std::getline(lines, line))
        if (auto found = read_association(line, local, peer); found.is_there)
            return found;
    return SctpAssociation{};
}

} // namespace synergy
