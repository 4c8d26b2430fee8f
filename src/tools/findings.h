// What `synergy check` finds out, for a reader or as JSON.
#pragma once

#include "tools/documents.h"

#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

namespace synergy {

/// What has been found out, a line each.
class Findings {
  public:
    void right(const std::string &text) { add(false, text); }
    void wrong(const std::string &text) { add(true, text); }
    /// Empty: nothing is.
    void wrong_if(const std::string &text) {
        if (!text.empty())
            wrong(text);
    }

    [[nodiscard]] bool is_any_wrong() const {
        return std::any_of(all_.begin(), all_.end(),
                           [](const Finding &each) { return each.is_wrong; });
    }

    void print() const {
        for (const Finding &each : all_)
            std::cout << (each.is_wrong ? "wrong: " : "ok: ") << each.text << '\n';
        std::cout << std::flush;
    }

    void print_json() const { std::cout << findings_json(!is_any_wrong(), all_) << std::endl; }

  private:
    void add(bool is_wrong, const std::string &text) {
        const auto is_it = [&](const Finding &each) { return each.text == text; };
        if (std::none_of(all_.begin(), all_.end(), is_it))
            all_.push_back({is_wrong, text});
    }

    std::vector<Finding> all_;
};

} // namespace synergy
