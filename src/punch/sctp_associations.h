// The associations that the kernel has, of whatever process.
#pragma once

#include "base/socket.h"

#include <optional>
#include <string>

namespace synergy {

/// What the kernel has between two ends.
struct SctpAssociation {
    bool is_there = false;
    std::uint32_t queued = 0; ///< bytes that were sent and have not arrived
};

class SctpAssociations {
  public:
    /// Opens the kernel's list in the calling thread's table: a server may change its root later
    /// on. It is there from the first SCTP socket on.
    SctpAssociations();

    /// Of any socket; nullopt: it can't be told.
    [[nodiscard]] std::optional<SctpAssociation> find(const Endpoint &local,
                                                      const Endpoint &peer) const;

  private:
    Socket list_;
};

/// What a line of the list says, if it is of an association between the two.
SctpAssociation read_association(const std::string &line, const Endpoint &local,
                                 const Endpoint &peer);

} // namespace synergy
