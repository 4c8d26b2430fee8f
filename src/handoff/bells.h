// The bells that ring, as the server's accept() sees them: in the page that it shares with the
// keeper.
#pragma once

#include "wire.h"

namespace synergy {

class Bells {
  public:
    explicit Bells(synergy_page &page) : page_(page) {}

    void ring() { __atomic_add_fetch(&page_.ringing, 1, __ATOMIC_RELEASE); }
    void silence() { __atomic_sub_fetch(&page_.ringing, 1, __ATOMIC_RELEASE); }

  private:
    synergy_page &page_;
};

} // namespace synergy
