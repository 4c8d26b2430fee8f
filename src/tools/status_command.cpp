#include "tools/status_command.h"

#include "tools/keepers.h"
#include "tools/peer_argument.h"
#include "tools/status_picture.h"
#include "tools/terminal.h"

#include <csignal>
#include <iostream>
#include <sys/ioctl.h>
#include <unistd.h>

namespace synergy {

namespace {

Style style_of_terminal() {
    Style style;
    style.color = has_color();
    return style;
}

/// The terminal's other screen, for as long as this lives: what was on it before comes back.
class OtherScreen {
  public:
    OtherScreen() { std::cout << "\x1b[?1049h\x1b[?25l" << std::flush; }
    ~OtherScreen() { std::cout << "\x1b[?25h\x1b[?1049l" << std::flush; }
    OtherScreen(const OtherScreen &) = delete;
    OtherScreen &operator=(const OtherScreen &) = delete;

    static void show(std::vector<std::string> lines) {
        winsize size{};
        constexpr std::size_t usual_rows = 24;
        const bool is_known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 1;
        const std::size_t rows = is_known ? size.ws_row : usual_rows;
        if (lines.size() >= rows) {
            lines.resize(rows - 2);
            lines.emplace_back("...");
        }
        // Lines that are too long are cut by the terminal (no wrapping: DECAWM).
        std::string text = "\x1b[?7l\x1b[H";
        for (const std::string &line : lines)
            text += line + "\x1b[K\n";
        std::cout << text << "\x1b[J\x1b[?7h" << std::flush;
    }
};

int watch() {
    sigset_t signals;
    sigemptyset(&signals);
    for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGWINCH})
        sigaddset(&signals, signal);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    const OtherScreen screen;
    const Style style = style_of_terminal();
    for (;;) {
        OtherScreen::show(status_picture(ask_keepers(), style));
        constexpr timespec second{.tv_sec = 1, .tv_nsec = 0};
        const int signal = sigtimedwait(&signals, nullptr, &second);
        if (signal > 0 && signal != SIGWINCH)
            return 0;
    }
}

} // namespace

int run_status(const StatusOptions &options) {
    try {
        if (options.watch && isatty(STDOUT_FILENO) != 1) {
            std::cerr << "synergy: --watch needs a terminal\n";
            return exit_refused;
        }
        if (options.watch)
            return watch();
        const nlohmann::ordered_json status = ask_keepers();
        if (options.json)
            std::cout << status.dump(2, ' ', false,
                                     nlohmann::ordered_json::error_handler_t::replace)
                      << std::endl;
        else
            for (const std::string &line : status_picture(status, style_of_terminal()))
                std::cout << line << '\n';
        return 0;
    } catch (const std::exception &error) {
        std::cerr << "synergy: " << error.what() << '\n';
        return exit_refused;
    }
}

} // namespace synergy
