// The bells that ring, as the server's accept() sees them: in the page that it shares with the
// keeper.
#pragma once

#include "wire.h"

#include <cstring>

namespace synergy {

class Bells {
  public:
    explicit Bells(synergy_page &page) : page_(page) {}

    void ring() {
        __atomic_add_fetch(&page_.rung, 1, __ATOMIC_RELEASE);
        __atomic_add_fetch(&page_.ringing, 1, __ATOMIC_RELEASE);
    }
    void silence() { __atomic_sub_fetch(&page_.ringing, 1, __ATOMIC_RELEASE); }

    /// What each of them says.
    [[nodiscard]] synergy_bell line() const {
        synergy_bell bell{};
        const synergy_address &name = page_.keeper;
        constexpr std::size_t beginning = sizeof SYNERGY_KEEPER_NAME - 1;
        std::memcpy(bell.text, SYNERGY_BELL_TEXT, sizeof bell.text);
        std::memcpy(bell.keeper, name.name + beginning, sizeof bell.keeper);
        bell.space = ' ';
        bell.mark = page_.bells;
        bell.end = '\n';
        return bell;
    }

    /// Whether who accepts can't answer.
    [[nodiscard]] bool are_unheard() const {
        return __atomic_load_n(&page_.is_deaf, __ATOMIC_ACQUIRE) != 0;
    }

  private:
    synergy_page &page_;
};

} // namespace synergy
