// What standard output may be shown.
#pragma once

namespace synergy {

/// Whether it is a terminal on which what was written can be written over.
bool is_live_terminal();

/// Whether colours are welcome there, too (https://no-color.org).
bool has_color();

} // namespace synergy
