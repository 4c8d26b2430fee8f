#include "server/tcp_keys.h"

#include "base/endpoint.h"

#include <algorithm>
#include <cstring>
#include <linux/tcp.h>
#include <netinet/in.h>

namespace synergy {

std::optional<OptionValue> key_value(int option, const void *bytes, std::size_t length) {
    OptionValue key{.level = IPPROTO_TCP,
                    .name = option,
                    .text = "TCP_MD5SIG",
                    .is_early = true,
                    .length = static_cast<socklen_t>(length)};
    if ((option != TCP_MD5SIG && option != TCP_MD5SIG_EXT) || length < sizeof(tcp_md5sig) ||
        length > key.bytes.size())
        return std::nullopt;
    std::memcpy(key.bytes.data(), bytes, length);
    return key;
}

bool is_key(const OptionValue &value) {
    return value.level == IPPROTO_TCP && (value.name == TCP_MD5SIG || value.name == TCP_MD5SIG_EXT);
}

bool add_key(std::vector<OptionValue> &keys, const OptionValue &key) {
    constexpr std::size_t most = 256;
    const auto signature = [](const OptionValue &value) {
        tcp_md5sig fields{};
        std::memcpy(&fields, value.bytes.data(), sizeof fields);
        return fields;
    };
    const tcp_md5sig one = signature(key);
    const auto address_of = [](const tcp_md5sig &of) {
        return Endpoint::from(reinterpret_cast<const sockaddr *>(&of.tcpm_addr),
                              sizeof of.tcpm_addr);
    };
    const auto is_for_the_same = [&](const OptionValue &other) {
        const tcp_md5sig two = signature(other);
        return key.name == other.name && one.tcpm_flags == two.tcpm_flags &&
               one.tcpm_prefixlen == two.tcpm_prefixlen && one.tcpm_ifindex == two.tcpm_ifindex &&
               address_of(one).same_address(address_of(two));
    };
    std::erase_if(keys, is_for_the_same);
    if (one.tcpm_keylen == 0)
        return true;
    if (keys.size() >= most)
        return false;
    keys.push_back(key);
    return true;
}

} // namespace synergy
