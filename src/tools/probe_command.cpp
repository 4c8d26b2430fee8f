#include "tools/probe_command.h"

#include "base/printable.h"
#include "hops/hop_choice.h"
#include "hops/path_probe.h"
#include "tools/documents.h"
#include "tools/path_picture.h"
#include "tools/peer_argument.h"
#include "tools/terminal.h"

#include <langinfo.h>
#include <netdb.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <clocale>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

namespace synergy {

namespace {

constexpr int exit_not_found = 1;

/// How long names are waited for once the path is known.
constexpr Duration time_for_names = std::chrono::milliseconds(300);

/// Host names of addresses, looked up beside everything else: a name server may be slow.
class NameFinder {
  public:
    void look_up(const Endpoint &address) {
        if (!asked_.insert(address.address_text()).second)
            return;
        {
            const std::lock_guard lock(found_->mutex);
            found_->open++;
        }
        // Left behind where it takes too long: what it writes to lives as long as it does.
        std::thread([address, found = found_] {
            char host[NI_MAXHOST] = "";
            const bool is_known = getnameinfo(address.data(), address.length(), host, sizeof host,
                                              nullptr, 0, NI_NAMEREQD) == 0;
            const std::lock_guard lock(found->mutex);
            // A name comes from whoever runs the address's zone, and goes to a terminal.
            if (is_known)
                found->names[address.address_text()] = printable_ascii(host);
            found->open--;
        }).detach();
    }

    [[nodiscard]] Names names() const {
        const std::lock_guard lock(found_->mutex);
        return found_->names;
    }
    [[nodiscard]] bool is_idle() const {
        const std::lock_guard lock(found_->mutex);
        return found_->open == 0;
    }

  private:
    struct Found {
        std::mutex mutex;
        Names names;
        int open = 0;
    };

    std::shared_ptr<Found> found_ = std::make_shared<Found>();
    std::set<std::string> asked_;
};

/// Where the picture goes. On a terminal each drawing replaces the one before.
class Screen {
  public:
    Screen() {
        std::setlocale(LC_CTYPE, "");
        const bool is_terminal = ::isatty(STDOUT_FILENO) == 1;
        style_.unicode = std::strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
        is_live_ = is_live_terminal();
        style_.color = has_color();
        winsize size{};
        if (is_terminal && ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
            style_.columns = size.ws_col;
            rows_ = size.ws_row;
        }
    }

    void draw_live(const Path &path, const Names &names) {
        if (!is_live_)
            return;
        std::vector<std::string> lines = path_picture(path, nullptr, names, style_);
        // What has scrolled away can't be drawn over.
        if (lines.size() + 1 > rows_)
            lines.erase(lines.begin(), lines.end() - static_cast<std::ptrdiff_t>(rows_) + 1);
        draw(lines);
    }

    void draw_final(const Path &path, const HopChoice &choice, const Names &names) {
        draw(path_picture(path, &choice, names, style_));
    }

  private:
    void draw(const std::vector<std::string> &lines) {
        std::string text;
        if (drawn_ > 0)
            text = "\x1b[" + std::to_string(drawn_) + "F\x1b[J";
        for (const std::string &line : lines)
            text += line + "\n";
        drawn_ = lines.size();
        std::cout << text << std::flush;
    }

    bool is_live_ = false;
    Style style_;
    std::size_t rows_ = 24;
    std::size_t drawn_ = 0;
};

} // namespace

int run_probe(const ProbeOptions &options) {
    const Settings settings = settings_of_environment();
    if (!settings.problems.empty())
        return exit_refused;

    const auto ends = path_ends(options.peer, options.from, settings);
    if (!ends)
        return exit_refused;
    const Endpoint &peer = ends->peer;
    const Endpoint &source = ends->source;

    Scheduler scheduler;
    Screen screen;
    NameFinder names;
    std::optional<Path> path;
    PathProbe probe(
        scheduler, peer, source, [&](const Path &measured) { path = measured; },
        [&](const Hop &hop) {
            names.look_up(hop.from);
            if (!options.json)
                screen.draw_live(probe.path(), names.names());
        });
    while (!path)
        scheduler.run_once(std::chrono::seconds(1));
    const Time names_due = Clock::now() + time_for_names;
    while (!names.is_idle() && Clock::now() < names_due)
        scheduler.run_once(std::chrono::milliseconds(10));

    const HopChoice choice = choose_hop_limit(*path, settings.hop_bounds);
    if (options.json)
        std::cout << path_json(*path, choice, names.names()) << std::endl;
    else if (path->error == 0)
        screen.draw_final(*path, choice, names.names());
    if (path->error != 0) {
        std::cerr << "synergy: can't probe " << peer.address_text()
                  << (source.empty() ? "" : " from " + source.address_text()) << ": "
                  << why_not_sent(path->error, *ends, settings) << '\n';
        return exit_refused;
    }
    return choice.is_found ? 0 : exit_not_found;
}

} // namespace synergy
