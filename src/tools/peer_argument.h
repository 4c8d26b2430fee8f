// What a command is told: a peer and an address of this host as arguments, the settings in the
// environment; and what is said of wrong ones.
#pragma once

#include "base/endpoint.h"
#include "settings/settings.h"

#include <string>

namespace synergy {

constexpr const char *a_peer = "an address or host name, as [2001:db8::5]:5555";
constexpr const char *an_address = "an address of this host, as 2001:db8::11";

/// The first address of a host, or with AI_NUMERICHOST of the address that `host` is; port 0.
/// Empty, and `error` in words, if there is none.
Endpoint resolve(const std::string &host, int flags, std::string &error);

/// As in SYNERGY_PEERS, or without a port (0), or a host name.
Endpoint parse_peer(const std::string &text, std::string &error);

/// As the environment has them; what is wrong with them is said on stderr.
Settings settings_of_environment();

/// Says on stderr what is wrong with an argument; the exit status for that.
int refuse_argument(const std::string &place, const std::string &text, const std::string &expected);

} // namespace synergy
