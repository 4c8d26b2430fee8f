#include "settings/unknown_variable.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace synergy {

namespace {

/// How many letters are to be put in, left out or changed to make one word the other.
std::size_t distance(std::string_view one, std::string_view other) {
    std::vector<std::size_t> row(other.size() + 1);
    for (std::size_t i = 0; i <= other.size(); i++)
        row[i] = i;
    for (std::size_t i = 0; i < one.size(); i++) {
        std::size_t diagonal = std::exchange(row[0], i + 1);
        for (std::size_t j = 0; j < other.size(); j++) {
            const std::size_t changed = diagonal + (one[i] == other[j] ? 0 : 1);
            diagonal = row[j + 1];
            row[j + 1] = std::min({changed, diagonal + 1, row[j] + 1});
        }
    }
    return row.back();
}

/// Of ASCII, whatever the locale.
char upper(char letter) {
    return letter >= 'a' && letter <= 'z' ? static_cast<char>(letter - 'a' + 'A') : letter;
}

} // namespace

std::optional<Problem> unknown_variable(std::string_view entry,
                                        const std::set<std::string, std::less<>> &known) {
    constexpr std::string_view ours = "SYNERGY_";
    constexpr std::size_t near = 3;
    // (What has no more than that is like anything.)
    constexpr std::size_t shortest = ours.size() + near;
    const std::string_view written = entry.substr(0, entry.find('='));
    std::string name(written);
    for (char &letter : name)
        letter = upper(letter);
    if (!name.starts_with(ours) || known.contains(written))
        return std::nullopt;
    std::string_view nearest;
    std::string all;
    for (const std::string &each : known)
        if (each.starts_with(ours)) {
            all.append(all.empty() ? "one of " : ", ").append(each);
            if (nearest.empty() || distance(name, each) < distance(name, nearest))
                nearest = each;
        }
    std::size_t far = distance(name, nearest);
    // With a word more than that, it is no other one's letters: SYNERGY_HOPLIMIT is for the hop
    // limit.
    if (far > 2)
        for (const std::string &each : known)
            if (each.starts_with(ours) && name.starts_with(each.substr(0, each.size() - 1))) {
                nearest = each;
                far = near;
            }
    // Written otherwise than in capitals it may be another program's.
    const bool is_surely_ours = written.starts_with(ours);
    const bool is_near = far <= (is_surely_ours && name.size() > shortest ? near : 1);
    if (!is_near && !is_surely_ours)
        return std::nullopt;
    return Problem{"environment", std::string(written), is_near ? std::string(nearest) : all};
}

} // namespace synergy
