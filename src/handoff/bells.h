// The bells that ring, as the server's accept() sees them: in the page that it shares with the
// keeper.
#pragma once

#include "wire.h"

namespace synergy {

class Bells {
  public:
    explicit Bells(synergy_page &page) : page_(page) {}

    /// A connection that comes from this port of this host is a bell from now on.
    void ring(std::uint16_t port) {
        __atomic_or_fetch(&page_.bells[port / 8], bit(port), __ATOMIC_RELEASE);
        __atomic_add_fetch(&page_.ringing, 1, __ATOMIC_RELEASE);
    }
    void silence(std::uint16_t port) {
        __atomic_and_fetch(&page_.bells[port / 8], static_cast<std::uint8_t>(~bit(port)),
                           __ATOMIC_RELEASE);
        __atomic_sub_fetch(&page_.ringing, 1, __ATOMIC_RELEASE);
    }

    /// Whether who accepts can't answer.
    [[nodiscard]] bool are_unheard() const {
        return __atomic_load_n(&page_.is_deaf, __ATOMIC_ACQUIRE) != 0;
    }

  private:
    static std::uint8_t bit(std::uint16_t port) {
        return static_cast<std::uint8_t>(1U << port % 8);
    }

    synergy_page &page_;
};

} // namespace synergy
