// The command line of `synergy`: all of it in one file, since it is read by templates that keep the
// compiler busy for longer than what the commands do.
#include "base/last_descriptors.h"
#include "settings/settings_text.h"
#include "tools/check_command.h"
#include "tools/firewall_test.h"
#include "tools/peer_argument.h"
#include "tools/preloadable.h"
#include "tools/probe_command.h"
#include "tools/run_command.h"
#include "tools/status_command.h"
#include "tools/test_command.h"

#include <CLI/CLI.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

namespace synergy {

namespace {

constexpr const char *run_usage = "synergy run [--peer P]... [--hops N] [--config F] -- COMMAND...";

constexpr const char *check_usage = "synergy check [--json] [PEER] [-- COMMAND...]";

/// CLI11 knows nothing of COMMAND.
class Usage : public CLI::Formatter {
  public:
    explicit Usage(const char *usage) : usage_(usage) {}
    std::string make_usage(const CLI::App *, std::string) const override {
        return std::string("Usage: ") + usage_ + "\n";
    }

  private:
    const char *usage_;
};

constexpr const char *probe_help = R"(With --json, standard output is one object:
  peer, source   addresses
  on_link        true if no router lies between
  hops           of hop limits 1, 2, ...: hop, answer (none, time-exceeded, prohibited,
                 unreachable, refused, accepted), and if there is one: address, name,
                 rtt_ms, probe (udp, tcp)
  hop_limit      for SYNERGY_HOPS
  found          false: nothing says where to die, hop_limit is a guess
  reason         in words
  error          why nothing could be sent; else missing
Exit status: 0 found, 1 not found, 2 not tried.)";

constexpr const char *status_help = R"(A hole is
  opening         not punched yet
  open            the peer may come in
  connected       and has
  resting         after a connection, until the system lets its ports be used again
  silent          open for a minute, and the peer has not come
  refused         a reset or a prohibition came back: the punch goes too far
  failing         can't be punched; why stands below
"dies at" is the router that says so.
The document of --json is described by status.schema.json, which is installed.)";

constexpr const char *test_help = R"(Both sides run it, each with the other's address, in any order:
    here    synergy test '[2001:db8::5]'
    there   synergy test '[2001:db8:7::11]'
They find each other through both firewalls by UDP, then try UDP, TCP and SCTP in both
directions, TCP with both sides calling, and after how long an idle hole is forgotten.
At both ends twelve ports are used, from the given one on (61680), and 61699.
The document of --json is described by test.schema.json, which is installed.
Exit status: 0 something passes, 1 nothing does, 2 not tried.)";

int refuse(const std::string &reason) {
    std::cerr << "synergy: " << reason << '\n';
    return exit_refused;
}

/// What an option, or PEER, is to be. (An empty word is mostly a shell's variable that is not set.)
CLI::Validator given(const std::string &expected) {
    const auto mistake = [expected](const std::string &text) {
        return text.empty() ? "'': expected " + expected : std::string();
    };
    return {mistake, ""};
}

CLI::Validator seconds_of_idle() {
    const auto mistake = [](const std::string &text) {
        unsigned seconds = 0;
        const char *end = text.data() + text.size();
        const auto [stopped, error] = std::from_chars(text.data(), end, seconds);
        return error == std::errc() && stopped == end && seconds >= 1 &&
                       seconds <= FirewallTest::idle_most
                   ? std::string()
                   : "'" + text + "': expected whole seconds from 1 to " +
                         std::to_string(FirewallTest::idle_most);
    };
    return {mistake, ""};
}

constexpr const char *a_peer = "a peer, as [2001:db8::5]:5555";
constexpr const char *a_host = "an address or host name, as [2001:db8::5]:5555";
constexpr const char *an_address = "an address of this host, as 2001:db8::11";

CLI::App *add_run_command(CLI::App &app, RunOptions &options) {
    CLI::App *command = app.add_subcommand("run", "Run COMMAND so that peers can connect to it.");
    command->formatter(std::make_shared<Usage>(run_usage));
    command->prefix_command();
    command
        ->add_option("--peer", options.peers,
                     "Who may connect, as [2001:db8::5]:5555 (SYNERGY_PEERS)")
        ->type_name("P")
        ->check(given(a_peer))
        ->expected(1)
        ->allow_extra_args(false)
        ->take_all();
    command
        ->add_option("--hops", options.hops,
                     "Hop limit of punches, 1 to 254 or auto (SYNERGY_HOPS)")
        ->type_name("N")
        ->check(given(expected::some_hops));
    command->add_option("--config", options.config, "Config file (SYNERGY_CONFIG)")
        ->type_name("F")
        ->check(given("a file"));
    return command;
}

CLI::App *add_probe_command(CLI::App &app, ProbeOptions &options) {
    CLI::App *command = app.add_subcommand(
        "probe", "Measure the path to PEER, and say at which hop a punch should die.");
    command->add_option("PEER", options.peer, "As [2001:db8::5]:5555, an address, or a host name")
        ->type_name("")
        ->check(given(a_host))
        ->required();
    command->add_option("--from", options.from, "Address to send from (SYNERGY_LOCAL)")
        ->type_name("ADDR")
        ->check(given(an_address));
    command->add_flag("--json", options.json, "For programs: see below");
    command->footer(probe_help);
    return command;
}

CLI::App *add_check_command(CLI::App &app, CheckOptions &options) {
    CLI::App *command = app.add_subcommand(
        "check", "Say what would be punched by these settings for COMMAND, and what can't be.");
    command->formatter(std::make_shared<Usage>(check_usage));
    command->add_option("PEER", options.peer, "In place of SYNERGY_PEERS, as [2001:db8::5]:5555")
        ->type_name("")
        ->check(given(a_peer));
    command->add_flag("--json", options.json, "For programs");
    command->footer("Exit status: 0 where nothing is wrong, else 1. The document of --json is "
                    "described by\ncheck.schema.json, which is installed.");
    return command;
}

CLI::App *add_status_command(CLI::App &app, StatusOptions &options) {
    CLI::App *command =
        app.add_subcommand("status", "Show the holes of every preloaded server of this user (of "
                                     "all users for root).");
    auto *watch = command->add_flag("--watch", options.watch, "A screen that is kept up to date");
    command->add_flag("--json", options.json, "For programs")->excludes(watch);
    command->footer(status_help);
    return command;
}

CLI::App *add_test_command(CLI::App &app, TestOptions &options) {
    CLI::App *command = app.add_subcommand(
        "test",
        "Find out, at both ends, whether the firewalls between here and PEER can be passed.");
    command->add_option("PEER", options.peer, "As [2001:db8::5]:5555, an address, or a host name")
        ->type_name("")
        ->check(given(a_host))
        ->required();
    command->add_option("--from", options.from, "Address to send from (SYNERGY_LOCAL)")
        ->type_name("ADDR")
        ->check(given(an_address));
    command
        ->add_option("--hops", options.hops,
                     "Hop limit of punches, 1 to 254 or auto (SYNERGY_HOPS)")
        ->type_name("N")
        ->check(given(expected::some_hops));
    command->add_option("--idle", options.idle, "Seconds for which holes are left alone (10,30,60)")
        ->type_name("S,...")
        ->delimiter(',')
        ->check(seconds_of_idle())
        ->expected(1, static_cast<int>(FirewallTest::idle_times_most));
    command->add_flag("--json", options.json, "For programs: see below");
    command->footer(test_help);
    return command;
}

/// Whoever is given less than there was is told so.
int written(int status) {
    if (std::cout.flush())
        return status;
    return refuse("standard output can't be written");
}

/// What is opened must not get into the place of standard output, say.
void hold_standard_descriptors() {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (::fcntl(fd, F_GETFD) < 0)
            static_cast<void>(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}

/// In the words of everything else that is refused: the option, and what was expected.
std::string describe(const CLI::App &app, const CLI::Error &error) {
    std::string text = error.what();
    if (error.get_name() != "ArgumentMismatch")
        return text;
    const std::string name = text.substr(0, text.find(':'));
    for (const CLI::App *command : app.get_subcommands())
        if (const CLI::Option *option = command->get_option_no_throw(name)) {
            const int most = option->get_expected_max();
            return name + ": expected " +
                   (most == 1 ? "one value" : "1 to " + std::to_string(most) + " values");
        }
    return text;
}

/// The first word of these that is one too many: CLI11 knows which are, and not their order.
std::vector<std::string>::const_iterator first_unexpected(const std::vector<std::string> &arguments,
                                                          const CLI::App &app) {
    const std::vector<std::string> rest = app.remaining(true);
    return std::find_if(arguments.begin(), arguments.end(), [&](const std::string &word) {
        return std::find(rest.begin(), rest.end(), word) != rest.end();
    });
}

/// The first word that is a program, up to this one; `check` would take it for PEER. Or this one.
std::vector<std::string>::const_iterator
first_program(std::vector<std::string>::const_iterator unexpected,
              const std::vector<std::string> &arguments) {
    return std::find_if(arguments.begin() + 1, unexpected, [](const std::string &word) {
        return !word.starts_with('-') && !find_command(word).empty();
    });
}

/// In the words of everything else that is refused.
int refuse_unexpected(const std::vector<std::string> &arguments, const CLI::App &app) {
    auto word = first_unexpected(arguments, app);
    if (word == arguments.end())
        return refuse("too many words: see synergy --help");
    const auto given = app.get_subcommands();
    const std::string command = given.empty() ? "" : given[0]->get_name();
    if (command == "check")
        word = first_program(word, arguments);
    std::string expected;
    if (command.empty())
        for (const CLI::App *each : app.get_subcommands([](const CLI::App *) { return true; }))
            expected.append(expected.empty() ? "a command first: " : ", ").append(each->get_name());
    else if (word < std::find(arguments.begin(), arguments.end(), command))
        expected = "the command first: synergy " + command;
    else if (word->starts_with('-'))
        expected = "another option: see synergy " + command + " --help";
    else if (command == "check")
        expected = "`--` before COMMAND";
    else
        expected = "nothing more: see synergy " + command + " --help";
    return refuse("'" + *word + "': expected " + expected);
}

/// Who looks needs some, and takes as many as there may be.
bool has_descriptors() {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return true;
    limit.rlim_cur = limit.rlim_max = std::max(limit.rlim_max, fewest_descriptors);
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0) // root may have more than the limit was
        return true;
    getrlimit(RLIMIT_NOFILE, &limit);
    refuse("the limit of open files is " + std::to_string(limit.rlim_max) + ", and " +
           std::to_string(fewest_descriptors) + " are the fewest that will do (ulimit -n)");
    return false;
}

} // namespace

} // namespace synergy

// (What escapes is for want of memory, before anything has started.)
int main(int argc, char **argv) { // NOLINT(bugprone-exception-escape)
    using namespace synergy;
    hold_standard_descriptors();

    CLI::App app("Direct connections between peers behind stateful firewalls.", "synergy");
    app.set_version_flag("--version", "synergy " SYNERGY_VERSION);
    app.failure_message([&app](const CLI::App *, const CLI::Error &error) {
        return "synergy: " + describe(app, error) + "\n";
    });

    RunOptions options;
    CLI::App *run_command = add_run_command(app, options);
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
    const bool takes_command =
        !arguments.empty() && (arguments[0] == "run" || arguments[0] == "check");
    const auto dashes =
        takes_command ? std::find(arguments.begin(), arguments.end(), "--") : arguments.end();
    std::vector<std::string> ours(arguments.begin(), dashes);
    try {
        // (In the order that this overload of parse() wants.)
        app.parse(std::vector<std::string>(ours.rbegin(), ours.rend()));
    } catch (const CLI::ExtrasError &) {
        return refuse_unexpected(ours, app);
    } catch (const CLI::ParseError &error) {
        return app.exit(error) == 0 ? written(0) : exit_refused;
    }
    if (!app.get_subcommands().empty() && !run_command->parsed() && !has_descriptors())
        return exit_refused;
    if (probe_command->parsed())
        return written(run_probe(probe));
    if (check_command->parsed()) {
        if (dashes != arguments.end())
            check.command.assign(dashes + 1, arguments.end());
        return written(run_check(check));
    }
    if (status_command->parsed())
        return written(run_status(status));
    if (test_command->parsed())
        return written(run_test(test));
    if (!run_command->parsed())
        return refuse("nothing to do: see synergy --help");
    options.command = run_command->remaining();
    if (!options.command.empty() && options.command[0].starts_with('-'))
        return refuse("no such option: " + options.command[0]);
    // A command given without "--" before it may hold one itself.
    const auto rest = options.command.empty() && dashes != arguments.end() ? dashes + 1 : dashes;
    options.command.insert(options.command.end(), rest, arguments.end());
    if (!options.command.empty() && options.command[0].starts_with('-'))
        return refuse("'" + options.command[0] +
                      "': expected COMMAND after `--`, and options before it");
    if (options.command.empty() || options.command[0].empty())
        return refuse(std::string("no command: ") + run_usage);
    return run_program(options);
}
