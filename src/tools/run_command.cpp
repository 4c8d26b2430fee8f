#include "tools/run_command.h"

#include "settings/load_settings.h"
#include "settings/settings_file.h"
#include "tools/own_environment.h"
#include "tools/peer_argument.h"
#include "tools/preloadable.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <optional>

namespace synergy {

namespace {

constexpr int exit_not_executable = 126;
constexpr int exit_not_found = 127;

int refuse(const std::string &reason) {
    std::cerr << "synergy: " << reason << '\n';
    return exit_refused;
}

/// The library reads the environment only, so that is where options go.
void export_options(const RunOptions &options) {
    std::string peers;
    for (const std::string &peer : options.peers)
        peers.append(peers.empty() ? "" : " ").append(peer);
    if (!options.peers.empty())
        ::setenv("SYNERGY_PEERS", peers.c_str(), 1);
    if (!options.hops.empty())
        ::setenv("SYNERGY_HOPS", options.hops.c_str(), 1);
    if (!options.config.empty())
        ::setenv("SYNERGY_CONFIG", options.config.c_str(), 1);
    // A server may change its directory before the library reads the file.
    const char *config = own_variable("SYNERGY_CONFIG");
    if (config != nullptr && *config != '\0')
        ::setenv("SYNERGY_CONFIG", std::filesystem::absolute(config).c_str(), 1);
}

/// Messages name what the user wrote: the option, where there was one.
void name_option(Problem &problem, const RunOptions &options) {
    if (problem.place == "SYNERGY_PEERS" && !options.peers.empty())
        problem.place = "--peer";
    else if (problem.place == "SYNERGY_HOPS" && !options.hops.empty())
        problem.place = "--hops";
    else if (problem.place == "SYNERGY_CONFIG" && !options.config.empty())
        problem.place = "--config";
}

/// Whether there is something to punch with, all of it right; says on stderr what is not.
bool check_settings(const RunOptions &options) {
    const Settings settings = load_settings(own_variable, environ);
    for (Problem problem : settings.problems) {
        name_option(problem, options);
        std::cerr << "synergy: " << problem.line() << '\n';
    }
    if (!settings.problems.empty())
        return false;
    std::error_code error;
    const bool peers_may_come = settings.follows_file &&
                                std::filesystem::is_directory(peer_directory(settings.file), error);
    if (!settings.has_peers() && !peers_may_come) {
        std::string places = "SYNERGY_PEERS (or --peer)";
        const std::vector<std::string> files = config_places(own_variable);
        for (const std::string &file : files)
            places.append(&file == &files.back() ? " and " : ", ").append(file);
        if (!settings.hidden_file.empty())
            places.append("; this user may not look for ").append(settings.hidden_file);
        const auto is_peer = [](const std::string &word) { return word.starts_with("--peer"); };
        if (std::any_of(options.command.begin(), options.command.end(), is_peer))
            places += "; --peer belongs before COMMAND";
        refuse("no peers: looked in " + places + hint_at_environment());
        return false;
    }
    return true;
}

void preload(const std::string &library) {
    const char *others = own_variable("LD_PRELOAD");
    std::string value = library;
    if (others != nullptr && *others != '\0')
        value.append(":").append(others);
    ::setenv("LD_PRELOAD", value.c_str(), 1);
}

int execute(const std::vector<std::string> &command) {
    std::vector<char *> arguments;
    arguments.reserve(command.size() + 1);
    for (const std::string &argument : command)
        arguments.push_back(const_cast<char *>(argument.c_str())); // execvp() leaves them alone
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    const int error = errno;
    std::cerr << "synergy: " << command[0] << ": " << std::strerror(error) << '\n';
    return error == ENOENT ? exit_not_found : exit_not_executable;
}

} // namespace

int run_program(const RunOptions &options) {
    export_options(options);
    if (!check_settings(options))
        return exit_refused;
    const std::string library = find_library();
    if (const std::string objection = library_objection(library); !objection.empty())
        return refuse(objection);
    if (const auto reason = why_left_out(commands_in(options.command), library))
        return refuse(*reason);
    preload(library);
    return execute(options.command);
}

} // namespace synergy
