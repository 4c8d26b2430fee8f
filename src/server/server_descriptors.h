// What the server has in its own descriptor table, seen from the engine's thread, which has
// another: through /proc, without holding any of the server's descriptors.
#pragma once

#include <cstdint>
#include <string>

namespace synergy {

/// The inode number of the socket behind a descriptor of the calling thread; 0: not a socket.
std::uint64_t socket_inode(int fd);

class ServerDescriptors {
  public:
    /// Opens /proc of this process in the calling thread's table: a server may change its root
    /// later on.
    ServerDescriptors();
    ~ServerDescriptors();
    ServerDescriptors(const ServerDescriptors &) = delete;
    ServerDescriptors &operator=(const ServerDescriptors &) = delete;

    /// Whether /proc can be read at all. Without it the engine learns from close() alone.
    [[nodiscard]] bool readable() const { return process_ >= 0; }
    /// The number under which the server has the socket now: `likely` if it is still that one, else
    /// another (it was duplicated), else -1. `except` is a number that does not count.
    [[nodiscard]] int find(std::uint64_t inode, int likely, int except = -1) const;

  private:
    [[nodiscard]] bool first_thread_has_ended() const;
    [[nodiscard]] bool is(int fd, const std::string &link) const;

    int process_ = -1; ///< /proc/self, as it was when the root directory was the same
};

} // namespace synergy
