#include "tools/status_picture.h"

#include "base/printable.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <unistd.h>
#include <utility>

namespace synergy {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char *bold = "\x1b[1m";
constexpr const char *dim = "\x1b[2m";
constexpr const char *red = "\x1b[31m";
constexpr const char *green = "\x1b[32m";
constexpr const char *plain = "\x1b[0m";

/// Another user's keeper says what it likes, and this goes to a terminal.
std::string text_of(const Json &object, const char *name) {
    const auto found = object.find(name);
    return found != object.end() && found->is_string() ? printable_ascii(found->get<std::string>())
                                                       : "-";
}

std::string number_of(const Json &object, const char *name) {
    const auto found = object.find(name);
    return found != object.end() && found->is_number_integer()
               ? std::to_string(found->get<std::int64_t>())
               : "-";
}

/// "4 s", "12 min", "3 h"
std::string age_of(const Json &object, const char *name) {
    const auto found = object.find(name);
    if (found == object.end() || !found->is_number())
        return "-";
    const double seconds = std::clamp(found->get<double>(), 0.0, 1e9);
    if (seconds < 100)
        return fmt::format("{:.0f} s", std::floor(seconds));
    if (seconds < 6000)
        return fmt::format("{:.0f} min", std::floor(seconds / 60));
    return fmt::format("{:.0f} h", std::floor(seconds / 3600));
}

std::string state_of(const Json &hole) {
    std::string state = text_of(hole, "state");
    if (state == "refused")
        return "refused at hop " + number_of(hole, "refused_at");
    return state;
}

/// Of a hole's columns, from left to right.
constexpr std::array headings{"peer",  "from",       "hops",      "dies at",
                              "state", "last punch", "last sign", "connections"};
using Row = std::array<std::string, headings.size()>;
constexpr std::size_t state_column = 4;

Row row_of(const Json &hole) {
    return {text_of(hole, "peer"),
            text_of(hole, "source"),
            number_of(hole, "hop_limit"),
            text_of(hole, "router"),
            state_of(hole),
            age_of(hole, "last_punch_s"),
            age_of(hole, "last_sign_s"),
            number_of(hole, "connections")};
}

class Picture {
  public:
    explicit Picture(const Style &style) : style_(style) {}

    std::vector<std::string> draw(const Json &status) {
        for (const Json &keeper : status["keepers"])
            draw_keeper(keeper);
        const Json &others = status["without_keeper"];
        if (others.empty() && status["keepers"].empty())
            add(geteuid() == 0
                    ? "no process has the library: see synergy run --help"
                    : "no process of this user's has the library (root sees those of all "
                      "users): see synergy run --help");
        if (!others.empty())
            add("the library and no keeper, since no socket of theirs has a peer:", bold);
        for (const Json &process : others)
            add(fmt::format("  {} (pid {})", text_of(process, "program"),
                            number_of(process, "pid")));
        return std::move(lines_);
    }

  private:
    void draw_keeper(const Json &keeper) {
        // A server's processes mostly have one name.
        std::string title;
        std::string last;
        for (const Json &process : keeper.value("processes", Json::array())) {
            const std::string program = text_of(process, "program");
            if (program != last)
                title += fmt::format("{}{} (pid {}", title.empty() ? "" : "), ", program,
                                     number_of(process, "pid"));
            else
                title += ", " + number_of(process, "pid");
            last = program;
        }
        // It ends in seconds, unless a server comes that has the same port.
        const bool is_waiting =
            title.empty() && keeper.contains("sockets") && keeper["sockets"].empty();
        title += !title.empty() ? ")"
                 : is_waiting   ? "no process any more: waits for one that follows"
                                : "no process";
        title += fmt::format(", user {}, kept by pid {}", number_of(keeper, "user"),
                             number_of(keeper, "pid"));
        add(title, bold);
        if (keeper.contains("error"))
            add("  the keeper: " + text_of(keeper, "error"), red);
        for (const Json &socket : keeper.value("sockets", Json::array()))
            draw_socket(socket);
        add("");
    }

    void draw_socket(const Json &socket) {
        add(fmt::format("  {} {}", text_of(socket, "protocol"), text_of(socket, "local")));
        std::vector<Row> rows;
        for (const Json &hole : socket["holes"])
            rows.push_back(row_of(hole));
        std::sort(rows.begin(), rows.end());
        if (!rows.empty())
            draw_table(rows);
        draw_causes(socket["holes"]);
        for (const Json &peer : socket["without_hole"])
            add(fmt::format("    {}: no hole: {}", text_of(peer, "peer"), text_of(peer, "reason")),
                red);
    }

    /// What keeps punches from leaving is the same for most of those that fail.
    void draw_causes(const Json &holes) {
        std::map<std::string, std::pair<std::string, std::size_t>> causes;
        for (const Json &hole : holes)
            if (text_of(hole, "state") == "failing") {
                auto &[first, count] = causes[text_of(hole, "error")];
                if (const std::string peer = text_of(hole, "peer"); count++ == 0 || peer < first)
                    first = peer;
            }
        for (const auto &[cause, holes_of] : causes) {
            const auto &[first, count] = holes_of;
            const std::string others = count == 1 ? "" : fmt::format(" and {} more", count - 1);
            add(fmt::format("    {}{}: can't punch: {}", first, others, cause), red);
        }
    }

    void draw_table(const std::vector<Row> &rows) {
        std::array<std::size_t, headings.size()> widths{};
        for (std::size_t column = 0; column < headings.size(); column++) {
            widths.at(column) = std::string_view(headings.at(column)).size();
            for (const Row &row : rows)
                widths.at(column) = std::max(widths.at(column), row.at(column).size());
        }
        Row heading;
        std::copy(headings.begin(), headings.end(), heading.begin());
        add(line_of(heading, widths), dim);
        for (const Row &row : rows) {
            const std::string &state = row[state_column];
            const bool is_well = state == "open" || state == "connected" || state == "resting";
            const bool is_new = state == "opening" || state == "silent";
            add(line_of(row, widths), is_well ? green : is_new ? plain : red);
        }
    }

    static std::string line_of(const Row &row,
                               const std::array<std::size_t, headings.size()> &widths) {
        std::string line = "  ";
        for (std::size_t column = 0; column < row.size(); column++)
            line += fmt::format("  {:{}}", row.at(column), widths.at(column));
        line.erase(line.find_last_not_of(' ') + 1);
        return line;
    }

    void add(const std::string &line, const char *look = plain) {
        lines_.push_back(style_.color && look != plain ? look + line + plain : line);
    }

    const Style &style_;
    std::vector<std::string> lines_;
};

} // namespace

std::vector<std::string> status_picture(const Json &status, const Style &style) {
    return Picture(style).draw(status);
}

} // namespace synergy
