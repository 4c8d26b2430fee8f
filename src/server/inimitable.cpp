#include "server/inimitable.h"

#include "base/socket.h"

#include <array>
#include <cerrno>
#include <linux/sctp.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>

namespace synergy {

namespace {

constexpr const char *a_filter = "a socket filter (SO_ATTACH_FILTER, SO_ATTACH_BPF)";
constexpr const char *keys_or_headers = "keys or header options (TCP_MD5SIG, TCP_AO, IPV6_HOPOPTS)";
constexpr const char *header_options = "options in the header of IPv4 (IP_OPTIONS)";
constexpr const char *saved_syn = "TCP_SAVE_SYN: nobody keeps the SYN of a peer that meets a punch";
constexpr const char *sctp_keys = "chunks that are to be authenticated (SCTP_AUTH_CHUNK)";

/// How many instructions it has, or that it is none that can be read.
bool has_filter(int fd) {
    socklen_t instructions = 0;
    return getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, nullptr, &instructions) == 0
               ? instructions != 0
               : errno == EACCES;
}

/// Accepted connections have none of them, but they hide what TCP_MAXSEG is.
bool has_header_options(int fd) {
    std::array<char, 40> options{}; // RFC 791 3.1: at most
    socklen_t length = options.size();
    return getsockopt(fd, IPPROTO_IP, IP_OPTIONS, options.data(), &length) == 0 && length != 0;
}

/// RFC 4895. Those of RFC 5061 are the kernel's own.
bool authenticates_chunks(int fd) {
    constexpr std::uint8_t asconf = 0xc1, asconf_ack = 0x80;
    struct {
        sctp_assoc_t association = 0;
        std::uint32_t count = 0;
        std::array<std::uint8_t, 256> types{};
    } chunks;
    socklen_t length = sizeof chunks;
    if (getsockopt(fd, IPPROTO_SCTP, SCTP_LOCAL_AUTH_CHUNKS, &chunks, &length) != 0)
        return false;
    for (std::size_t i = 0; i < chunks.count && i < chunks.types.size(); i++)
        if (chunks.types[i] != asconf && chunks.types[i] != asconf_ack)
            return true;
    return false;
}

} // namespace

const char *const what_takes_memory =
    "a socket filter, keys or header options (SO_ATTACH_FILTER, TCP_MD5SIG, TCP_AO, IPV6_HOPOPTS)";

std::uint32_t option_memory_of(int fd) {
    return meminfo_of(fd, SK_MEMINFO_OPTMEM);
}

std::string not_to_be_given(const char *what) {
    return std::string(
               "a connection that was not made by this listener can't be given what it has: ") +
           what;
}

const char *inimitable(int fd, std::uint32_t option_memory) {
    if (has_filter(fd))
        return a_filter;
    if (option_memory_of(fd) != option_memory)
        return keys_or_headers;
    if (has_header_options(fd))
        return header_options;
    if (get_option(fd, IPPROTO_TCP, TCP_SAVE_SYN) != 0)
        return saved_syn;
    return authenticates_chunks(fd) ? sctp_keys : nullptr;
}

} // namespace synergy
