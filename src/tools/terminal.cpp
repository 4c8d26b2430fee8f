#include "tools/terminal.h"

#include <cstdlib>
#include <cstring>
#include <unistd.h>

namespace synergy {

bool is_live_terminal() {
    const char *terminal = std::getenv("TERM");
    return ::isatty(STDOUT_FILENO) == 1 && terminal != nullptr &&
           std::strcmp(terminal, "dumb") != 0;
}

bool has_color() {
    const char *no_color = std::getenv("NO_COLOR");
    return is_live_terminal() && (no_color == nullptr || *no_color == '\0');
}

} // namespace synergy
