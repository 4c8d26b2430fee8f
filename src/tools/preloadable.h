// Whether LD_PRELOAD can have an effect on a command, as far as its file tells.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace synergy {

/// libsynergy.so: beside this program, in the build tree or installed; empty: in neither.
std::string find_library();
/// The keeper that the library would start; empty: there is none.
std::string find_keeper(const std::string &library);

/// The file that execvp() runs for a command; empty where it finds none.
std::string find_command(const std::string &command);

/// Why the library at this place (empty: at none) can't be preloaded into anything; empty: it can.
std::string library_objection(const std::string &library);

/// What of a command's words is preloaded in the end: where it runs `synergy run` itself, behind
/// sudo say, that is what stands behind that. Empty: it can't be told.
std::vector<std::string> preloaded_part(const std::vector<std::string> &command);

/// Why what a command starts is started without the library: sudo and its like leave LD_PRELOAD
/// out. Nothing: no reason is known.
std::optional<std::string> why_not_passed_on(const std::vector<std::string> &command);

/// Why a library can't be preloaded into what this file runs, as a sentence that begins with the
/// file's name. Nothing: it can, or what stands against it can't be seen in the file.
std::optional<std::string> why_not_preloadable(const std::string &file, const std::string &library);

} // namespace synergy
