// What the processes of one server share: a page mapped before the first fork, so that whichever
// process accepts can tell a doorbell from a client and knows whom to ask for the connection.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string_view>

#include <sys/types.h>

namespace synergy {

using Secret = std::array<std::uint8_t, 16>;

/// One engine of the family, as the others see it.
struct EngineAddress {
    pid_t process = 0;
    /// Abstract name of the Unix socket that it listens on, without the leading zero byte (unix(7):
    /// the kernel's own choice is five hexadecimal digits).
    std::array<char, 5> name{};
};

class Family {
  public:
    /// The page of this process and of all that it forks from now on; made at the first call, which
    /// must come before any fork that is to share it. Throws std::system_error without memory.
    static Family &get();

    [[nodiscard]] const Secret &secret() const { return secret_; }

    /// Takes a slot for this process's engine; nullopt when 255 live processes have one.
    std::optional<std::uint8_t> join(const EngineAddress &address);

    /// Marks a port of this host as the source of a doorbell of engine `slot`; false if it is one's
    /// already. silence() ends that.
    bool ring(std::uint16_t port, std::uint8_t slot);
    void silence(std::uint16_t port);

    /// Whether an engine is one of the family's.
    [[nodiscard]] bool has(const EngineAddress &address) const;
    /// An engine of another family rings at a listener of this one's, as when a server has started
    /// a new program with its listeners; and does so no longer.
    void stranger_keeps() { page_->strangers++; }
    void stranger_gone() { page_->strangers--; }

    /// Whether any doorbell may be ringing. Two loads: accept() asks this of every connection.
    [[nodiscard]] bool is_ringing() const { return page_->ringing != 0 || has_stranger(); }
    [[nodiscard]] bool has_stranger() const { return page_->strangers != 0; }
    /// The engine that a connection from this port of this host belongs to.
    [[nodiscard]] std::optional<EngineAddress> engine_behind(std::uint16_t port) const;

  private:
    Family();

    // Shared by processes: lock-free atomics only.
    struct Slot {
        std::atomic<std::int32_t> process; ///< 0: free, -1: being filled in
        std::atomic<std::uint64_t> name;   ///< five bytes of it
    };
    struct Page {
        std::array<std::atomic<std::uint8_t>, 65536> doorbells; ///< 0, or 1 + slot
        std::array<Slot, 255> slots;
        std::atomic<std::uint32_t> ringing;   ///< how many doorbells, those of dead engines too
        std::atomic<std::uint32_t> strangers; ///< how many of our engines stand behind one
    };
    static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

    Page *page_ = nullptr; ///< never unmapped: accept() may be using it
    Secret secret_{};
};

} // namespace synergy
