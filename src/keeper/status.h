// What `synergy status` shows of a keeper: a JSON document, made when somebody asks.
#pragma once

#include "base/socket.h"
#include "keeper/hole_status.h"
#include "server/socket_diag.h"
#include "server/traffic.h"

#include <string>
#include <vector>

namespace synergy {

/// As src/tools/status.schema.json describes it, one element of its `keepers`.
std::string status_document(const std::vector<SocketStatus> &sockets,
                            const std::vector<pid_t> &processes, SocketDiag &socket_diag,
                            const Traffic &traffic);

/// A file in memory that holds this, and that nobody can change; empty and errno set if there can
/// be none.
Socket in_memory(const std::string &content);

} // namespace synergy
