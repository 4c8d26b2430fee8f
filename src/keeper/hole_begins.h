// What firewalls know of each hole, kept for the next punch that has it.
#pragma once

#include "punch/hole_begin.h"
#include "punch/punch.h"

#include <cstddef>
#include <memory>
#include <string>
#include <unordered_map>

namespace synergy {

class HoleBegins {
  public:
    /// `lifetime`: for how long firewalls keep such a hole.
    std::shared_ptr<HoleBegin> of(const Hole &hole, Duration lifetime);

  private:
    std::unordered_map<std::string, std::shared_ptr<HoleBegin>> begins_; ///< by Hole::text()
    std::size_t left_ = 0; ///< when they were last looked through
};

} // namespace synergy
