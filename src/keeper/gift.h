// What one listener's keeper gives to another's that shares its port.
#pragma once

#include "base/socket.h"
#include "punch/guard.h"

#include <optional>

namespace synergy {

/// A connection with a peer, or a punch toward it.
struct Gift {
    Gift(Socket what, const Endpoint &of, std::uint64_t begun_with,
         std::optional<GuardStanding> punch = std::nullopt)
        : socket(std::move(what)), peer(of), beginning(begun_with), standing(std::move(punch)) {}

    Socket socket;
    Endpoint peer;
    std::uint64_t beginning; ///< hash_of_beginning() of the options that the peer has been told
    std::optional<GuardStanding> standing; ///< of a punch
};

} // namespace synergy
