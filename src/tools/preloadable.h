// Whether LD_PRELOAD can have an effect on a command, as far as its file tells.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace synergy {

/// libsynergy.so: beside this program, in the build tree or installed; empty: in neither.
std::string find_library();
/// The file that execvp() runs for a command; empty where it finds none.
std::string find_command(const std::string &command);

/// Why the library at this place (empty: at none) can't be preloaded into anything, or does nothing
/// there; empty: it can.
std::string library_objection(const std::string &library);

/// The commands in these words, each with its arguments: the first, and what nice(1) and its like
/// start behind it. Where one runs `synergy run` itself, behind sudo say, that is what stands
/// behind that. None: it can't be told.
std::vector<std::vector<std::string>> commands_in(const std::vector<std::string> &words);

/// The first setting that env(1) makes among these commands; empty: none.
std::string setting_by_env(const std::vector<std::vector<std::string>> &commands);

/// Why the library does not get into the last of these commands: one of them leaves LD_PRELOAD out
/// (sudo), or its file is none that anything can be preloaded into. Nothing: no reason is known.
std::optional<std::string> why_left_out(const std::vector<std::vector<std::string>> &commands,
                                        const std::string &library);

} // namespace synergy
