#include "tools/path_picture.h"

#include <fmt/format.h>

#include <algorithm>

namespace synergy {

namespace {

constexpr const char *bold = "\x1b[1m";
constexpr const char *dim = "\x1b[2m";
constexpr const char *plain = "\x1b[0m";

constexpr int bar_most = 20;
constexpr int number_width = 4;
constexpr int time_width = 10;

/// What is said after the bar of a hop, if anything.
std::string remark(const Hop &hop) {
    switch (hop.answer) {
    case HopAnswer::prohibited:
        return "a firewall forbids the probe";
    case HopAnswer::unreachable:
        return "knows no way on";
    case HopAnswer::refused:
    case HopAnswer::accepted:
        return std::string(name(hop.answer)) + " the probe";
    default:
        return {};
    }
}

std::string bar(const Hop &hop, std::chrono::microseconds longest, const Style &style) {
    // Eighths of a character, where there are such characters.
    constexpr const char *eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    const auto parts = std::max<std::int64_t>(1, hop.round_trip.count() * bar_most * 8 /
                                                     std::max<std::int64_t>(1, longest.count()));
    std::string drawn;
    for (std::int64_t i = 0; i < parts / 8; i++)
        drawn += style.unicode ? "█" : "#";
    if (style.unicode)
        drawn += eighths[parts % 8];
    else if (parts < 8)
        drawn += "#";
    return drawn;
}

/// Who answered: the address, and the name where it is known and there is room.
std::string who(const Hop &hop, const Names &names) {
    const std::string address = hop.from.address_text();
    const auto found = names.find(address);
    return found == names.end() ? address : address + " " + found->second;
}

/// To so many characters (of UTF-8, which are begun by all bytes but 10xxxxxx; each has one column
/// here).
void cut_to(std::string &line, int columns) {
    int seen = 0;
    for (std::size_t i = 0; i < line.size(); i++)
        if ((static_cast<unsigned char>(line[i]) & 0xc0) != 0x80 && seen++ == columns) {
            line.resize(i);
            return;
        }
}

class Picture {
  public:
    Picture(const Path &path, const HopChoice *choice, const Names &names, const Style &style)
        : path_(path), choice_(choice), names_(names), style_(style) {
        for (const Hop &hop : path.hops) {
            longest_ = std::max(longest_, hop.round_trip);
            if (hop.answer != HopAnswer::none)
                widest_ = std::max(widest_, static_cast<int>(who(hop, names).size()));
        }
        widest_ = std::min(widest_, style.columns - number_width - time_width - bar_most - 4);
        widest_ = std::max(widest_, static_cast<int>(sizeof "255.255.255.255"));
    }

    std::vector<std::string> draw() {
        std::string title = "to " + path_.peer.address_text();
        if (!path_.source.empty())
            title += " from " + path_.source.address_text();
        add(title, bold);
        // While it is measured, the path has all hop limits that are asked.
        const Hop *end = path_.end();
        const int last = end != nullptr ? end->limit : path_.last_answer();
        for (const Hop &hop : path_.hops)
            if (hop.limit <= last)
                draw_hop(hop);
        if (choice_ == nullptr) {
            add("     ...", dim);
            return std::move(lines_);
        }
        if (end == nullptr && !path_.hops.empty())
            add("     beyond: silence, from a firewall that drops probes or from the peer", dim);
        draw_dying_beyond(last);
        lines_.emplace_back();
        const std::string kind = choice_->is_found ? "hop limit {}: {}" : "hop limit {} ({})";
        add(fmt::format(fmt::runtime(kind), choice_->hops, choice_->reason), bold);
        return std::move(lines_);
    }

  private:
    void draw_hop(const Hop &hop) {
        const bool is_beyond = choice_ != nullptr && hop.limit > choice_->hops;
        const std::string number = fmt::format("{:>3}  ", hop.limit);
        if (hop.answer == HopAnswer::none) {
            add(number + (choice_ == nullptr ? "..." : "silent"), dim);
        } else {
            std::string line =
                number + fmt::format("{:<{}} {:>7.1f} ms  {}", cut(who(hop, names_)), widest_,
                                     milliseconds_of(hop), bar(hop, longest_, style_));
            if (const std::string said = remark(hop); choice_ != nullptr && !said.empty())
                line += "  " + said;
            add(line, is_beyond ? dim : "");
        }
        if (dies_at(hop.limit))
            draw_end_of_punch();
    }

    /// A line that the terminal breaks in two could not be drawn over.
    [[nodiscard]] std::string cut(std::string text) const {
        const auto most = static_cast<std::size_t>(widest_);
        if (text.size() > most)
            text.replace(most - 3, std::string::npos, "...");
        return text;
    }

    [[nodiscard]] bool dies_at(int limit) const {
        return choice_ != nullptr && !path_.on_link && choice_->hops == limit;
    }

    /// The punch goes further than anything that answered.
    void draw_dying_beyond(int last) {
        if (path_.error == 0 && !path_.on_link && choice_->hops > last) {
            add(fmt::format("{:>3}  unknown", choice_->hops), dim);
            draw_end_of_punch();
        }
    }

    void draw_end_of_punch() {
        add(std::string("     ") + (style_.unicode ? "╳ ─── " : "x --- ") +
                "the punch dies here; beyond lies what it must not reach",
            bold);
    }

    static double milliseconds_of(const Hop &hop) {
        return static_cast<double>(hop.round_trip.count()) / 1000;
    }

    void add(std::string line, const char *look) {
        if (choice_ == nullptr) // it will be drawn over
            cut_to(line, style_.columns);
        const bool is_plain = !style_.color || *look == '\0';
        lines_.push_back(is_plain ? line : look + line + plain);
    }

    const Path &path_;
    const HopChoice *choice_;
    const Names &names_;
    const Style &style_;
    std::chrono::microseconds longest_{};
    int widest_ = 0;
    std::vector<std::string> lines_;
};

} // namespace

std::vector<std::string> path_picture(const Path &path, const HopChoice *choice, const Names &names,
                                      const Style &style) {
    return Picture(path, choice, names, style).draw();
}

} // namespace synergy
