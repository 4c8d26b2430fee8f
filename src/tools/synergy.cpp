// The `synergy` command: runs other programs with libsynergy.so in front, shows what has become of
// their holes, and measures paths.
#include "settings/settings_file.h"
#include "tools/check_command.h"
#include "tools/peer_argument.h"
#include "tools/preloadable.h"
#include "tools/probe_command.h"
#include "tools/status_command.h"
#include "tools/test_command.h"

#include <CLI/CLI.hpp>

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace synergy {

namespace {

constexpr int exit_not_executable = 126;
constexpr int exit_not_found = 127;

constexpr const char *run_usage = "synergy run [--peer P]... [--hops N] [--config F] -- COMMAND...";

/// CLI11 knows nothing of COMMAND.
class RunHelp : public CLI::Formatter {
  public:
    std::string make_usage(const CLI::App *, std::string) const override {
        return std::string("Usage: ") + run_usage + "\n";
    }
};

struct RunOptions {
    std::vector<std::string> peers;
    std::string hops;
    std::string config;
    std::vector<std::string> command;
};

int refuse(const std::string &reason) {
    std::cerr << "synergy: " << reason << '\n';
    return exit_refused;
}

const char *variable(const char *name) {
    return std::getenv(name);
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
    const char *config = variable("SYNERGY_CONFIG");
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
    const Settings settings = load_settings(variable, environ);
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
        const std::vector<std::string> files = config_places(variable);
        for (const std::string &file : files)
            places.append(&file == &files.back() ? " and " : ", ").append(file);
        if (!settings.hidden_file.empty())
            places.append("; this user may not look for ").append(settings.hidden_file);
        refuse("no peers: looked in " + places);
        return false;
    }
    return true;
}

void preload(const std::string &library) {
    const char *others = variable("LD_PRELOAD");
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

/// `synergy run`; returns only when the command could not be started.
int run(const RunOptions &options) {
    export_options(options);
    if (!check_settings(options))
        return exit_refused;
    const std::string library = find_library();
    if (library.empty())
        return refuse("libsynergy.so is neither in ../preload nor in ../" SYNERGY_LIBDIR
                      " beside this program");
    if (library.find_first_of(": ") != std::string::npos)
        return refuse(library + ": a path with a colon or a space can't be in LD_PRELOAD");
    if (const std::string file = find_command(options.command[0]); !file.empty())
        if (const std::optional<std::string> reason = why_not_preloadable(file, library))
            return refuse(*reason);
    preload(library);
    return execute(options.command);
}

} // namespace

} // namespace synergy

// (What escapes is for want of memory, before anything has started.)
int main(int argc, char **argv) { // NOLINT(bugprone-exception-escape)
    using namespace synergy;

    CLI::App app("Direct connections between peers behind stateful firewalls.", "synergy");
    app.set_version_flag("--version", "synergy " SYNERGY_VERSION);
    app.failure_message([](const CLI::App *, const CLI::Error &error) {
        return std::string("synergy: ") + error.what() + "\n";
    });

    RunOptions options;
    CLI::App *run_command =
        app.add_subcommand("run", "Run COMMAND so that peers can connect to it.");
    run_command->formatter(std::make_shared<RunHelp>());
    run_command->prefix_command();
    run_command
        ->add_option("--peer", options.peers,
                     "Who may connect, as [2001:db8::5]:5555 (SYNERGY_PEERS)")
        ->type_name("P")
        ->expected(1)
        ->allow_extra_args(false)
        ->take_all();
    run_command
        ->add_option("--hops", options.hops,
                     "Hop limit of punches, 1 to 254 or auto (SYNERGY_HOPS)")
        ->type_name("N");
    run_command->add_option("--config", options.config, "Config file (SYNERGY_CONFIG)")
        ->type_name("F");

    ProbeOptions probe;
    CLI::App *probe_command = add_probe_command(app, probe);
    CheckOptions check;
    CLI::App *check_command = add_check_command(app, check);
    StatusOptions status;
    CLI::App *status_command = add_status_command(app, status);
    TestOptions test;
    CLI::App *test_command = add_test_command(app, test);

    // CLI11 would parse what comes after "--" itself, and take the command's options for ours.
    std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
    const auto dashes = std::find(arguments.begin(), arguments.end(), "--");
    std::vector<std::string> ours(arguments.begin(), dashes);
    try {
        std::reverse(ours.begin(), ours.end()); // the order that this overload of parse() wants
        app.parse(std::move(ours));
    } catch (const CLI::ParseError &error) {
        return app.exit(error) == 0 ? 0 : exit_refused;
    }
    if (probe_command->parsed())
        return run_probe(probe);
    if (check_command->parsed()) {
        if (dashes != arguments.end())
            check.command.assign(dashes + 1, arguments.end());
        return run_check(check);
    }
    if (status_command->parsed())
        return run_status(status);
    if (test_command->parsed())
        return run_test(test);
    if (!run_command->parsed())
        return refuse("nothing to do: see synergy --help");
    options.command = run_command->remaining();
    if (!options.command.empty() && options.command[0].starts_with('-'))
        return refuse("no such option: " + options.command[0]);
    // A command given without "--" before it may hold one itself.
    const auto rest = options.command.empty() && dashes != arguments.end() ? dashes + 1 : dashes;
    options.command.insert(options.command.end(), rest, arguments.end());
    if (options.command.empty())
        return refuse(
            "no command: synergy run [--peer P]... [--hops N] [--config F] -- COMMAND...");
    return run(options);
}
