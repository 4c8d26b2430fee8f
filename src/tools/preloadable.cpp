#include "tools/preloadable.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>

namespace synergy {

namespace {

using ElfHeader = ElfW(Ehdr);
using ProgramHeader = ElfW(Phdr);

constexpr std::size_t script_line_max = 256; ///< BINPRM_BUF_SIZE: the kernel looks no further

bool is_program(const std::string &file) {
    struct stat status;
    return ::stat(file.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
           ::access(file.c_str(), X_OK) == 0;
}

/// The interpreter that a script's first line names; empty: it is no script.
std::string interpreter(std::string_view head) {
    if (!head.starts_with("#!"))
        return {};
    head = head.substr(2, head.find('\n') - 2);
    head.remove_prefix(std::min(head.find_first_not_of(" \t"), head.size()));
    return std::string(head.substr(0, head.find_first_of(" \t")));
}

/// Whether the kernel calls a program secure (AT_SECURE) for what its file grants; the dynamic
/// linker then ignores libraries given by path in LD_PRELOAD.
const char *secure_for(const std::string &file) {
    struct stat status;
    struct statvfs system;
    if (::stat(file.c_str(), &status) != 0)
        return nullptr;
    // What it grants doesn't count where the user has it anyway, or the file system grants nothing.
    if (::statvfs(file.c_str(), &system) == 0 && (system.f_flag & ST_NOSUID) != 0)
        return nullptr;
    if ((status.st_mode & S_ISUID) != 0 && status.st_uid != ::getuid())
        return "set-user-ID";
    if ((status.st_mode & S_ISGID) != 0 && (status.st_mode & S_IXGRP) != 0 &&
        status.st_gid != ::getgid())
        return "set-group-ID";
    if (::getuid() != 0 && ::getxattr(file.c_str(), "security.capability", nullptr, 0) > 0)
        return "given capabilities by its file";
    return nullptr;
}

bool read_header(std::istream &stream, ElfHeader &header) {
    stream.seekg(0);
    return stream.read(reinterpret_cast<char *>(&header), sizeof(header)) &&
           std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0;
}

bool same_architecture(const ElfHeader &one, const ElfHeader &other) {
    return one.e_ident[EI_CLASS] == other.e_ident[EI_CLASS] &&
           one.e_ident[EI_DATA] == other.e_ident[EI_DATA] && one.e_machine == other.e_machine;
}

/// Whether a program asks for a dynamic linker. What can't be read isn't held against it.
bool has_interpreter(std::istream &stream, const ElfHeader &header) {
    stream.seekg(static_cast<std::streamoff>(header.e_phoff));
    for (unsigned i = 0; i < header.e_phnum; ++i) {
        ProgramHeader program;
        if (!stream.read(reinterpret_cast<char *>(&program), sizeof(program)) ||
            program.p_type == PT_INTERP)
            return true;
    }
    return false;
}

/// Whether the linker of Go has left its build number in the program, whatever linked it in the
/// end.
bool is_go(std::istream &stream, const ElfHeader &header) {
    for (unsigned i = 0; i < header.e_phnum; ++i) {
        ProgramHeader program;
        stream.clear();
        stream.seekg(static_cast<std::streamoff>(header.e_phoff + i * sizeof(program)));
        if (!stream.read(reinterpret_cast<char *>(&program), sizeof(program)))
            return false;
        constexpr std::size_t notes_max = 1 << 16;
        if (program.p_type != PT_NOTE || program.p_filesz > notes_max)
            continue;
        std::string notes(program.p_filesz, '\0');
        stream.seekg(static_cast<std::streamoff>(program.p_offset));
        if (!stream.read(notes.data(), static_cast<std::streamsize>(notes.size())))
            return false;
        const auto padded = [](std::size_t size) { return (size + 3) & ~std::size_t{3}; };
        ElfW(Nhdr) note;
        for (std::size_t at = 0; at + sizeof(note) <= notes.size();
             at += sizeof(note) + padded(note.n_namesz) + padded(note.n_descsz)) {
            std::memcpy(&note, notes.data() + at, sizeof(note));
            // (Go pads the name before it counts it.)
            if (note.n_namesz >= sizeof "Go" &&
                notes.compare(at + sizeof(note), sizeof "Go", "Go", sizeof "Go") == 0)
                return true;
        }
    }
    return false;
}

/// The words by which a starter of programs gives them another environment than its own; none: it
/// always does.
struct Starter {
    const char *name;
    std::vector<std::string_view> words;
};

const std::vector<Starter> starters = {{"sudo", {}},
                                       {"doas", {}},
                                       {"pkexec", {}},
                                       {"su", {"-", "-l", "--login"}},
                                       {"runuser", {"-", "-l", "--login"}},
                                       {"env", {"-", "-i", "--ignore-environment"}},
                                       {"setpriv", {"--reset-env"}},
                                       {"service", {}},
                                       {"systemctl", {}},
                                       {"systemd-run", {}},
                                       {"ssh", {}},
                                       {"docker", {}},
                                       {"podman", {}},
                                       {"flatpak", {}},
                                       {"snap", {}},
                                       {"at", {}},
                                       {"batch", {}}};

/// Those that start another command with the environment that they have.
constexpr std::string_view go_betweens[] = {
    "env",     "nice",    "nohup",   "timeout", "setpriv", "setsid", "stdbuf", "ionice", "chrt",
    "unshare", "taskset", "numactl", "prlimit", "time",    "strace", "ltrace", "ip",     "choom"};

std::string name_of(const std::vector<std::string> &command) {
    return std::filesystem::path(command[0]).filename();
}

/// What such a one starts: the first of its words that is a program, since its options differ from
/// one to the other.
std::vector<std::string> started_by(const std::vector<std::string> &command) {
    const std::string name = name_of(command);
    if (std::find(std::begin(go_betweens), std::end(go_betweens), name) == std::end(go_betweens))
        return {};
    const auto first =
        std::find_if(command.begin() + 1, command.end(), [](const std::string &word) {
            return !word.starts_with('-') && !find_command(word).empty();
        });
    return {first, command.end()};
}

/// What env(1) is told of the environment of what it starts.
struct EnvWords {
    std::vector<std::string> unset; ///< names
    std::vector<std::string> set;   ///< NAME=VALUE
};

EnvWords words_of_env(const std::vector<std::string> &command) {
    EnvWords words;
    if (name_of(command) != "env")
        return words;
    constexpr std::string_view long_option = "--unset=";
    for (auto word = command.begin() + 1; word != command.end(); ++word) {
        const bool is_with_next = *word == "-u" || *word == "--unset";
        if (is_with_next && word + 1 != command.end())
            words.unset.push_back(*++word);
        else if (word->starts_with(long_option))
            words.unset.push_back(word->substr(long_option.size()));
        else if (word->starts_with("-u"))
            words.unset.push_back(word->substr(2));
        else if (word->find('=') != std::string::npos)
            words.set.push_back(*word);
        else if (!word->starts_with('-'))
            break; // what it starts
    }
    return words;
}

/// The variable that env(1) takes from what it starts, or replaces, of those without which nothing
/// is punched there. Empty: none.
std::string taken_by_env(const std::vector<std::string> &command) {
    const EnvWords words = words_of_env(command);
    for (const std::string &name : words.unset)
        if (name == "LD_PRELOAD" || ((name == "SYNERGY_PEERS" || name == "SYNERGY_CONFIG") &&
                                     std::getenv(name.c_str()) != nullptr))
            return name;
    for (const std::string &word : words.set)
        if (word.starts_with("LD_PRELOAD=") && word.find("libsynergy.so") == std::string::npos)
            return "LD_PRELOAD";
    return {};
}

std::optional<std::string> why_not_passed_on(const std::vector<std::string> &command) {
    const std::string name = name_of(command);
    if (const std::string variable = taken_by_env(command); !variable.empty())
        return "env takes " + variable + " from what it starts";
    const auto starter = std::find_if(starters.begin(), starters.end(),
                                      [&](const Starter &each) { return name == each.name; });
    if (starter == starters.end())
        return std::nullopt;
    // The starter's own options come first.
    const auto end = std::find_if(command.begin() + 1, command.end(), [](const std::string &word) {
        return word == "--" || (!word.starts_with('-') && word.find('=') == std::string::npos);
    });
    const auto &words = starter->words;
    if (!words.empty() &&
        std::find_first_of(command.begin() + 1, end, words.begin(), words.end()) == end)
        return std::nullopt;
    return name +
           " gives what it starts another environment, without LD_PRELOAD: put `synergy run` "
           "behind it, as in `" +
           name + " ... synergy run --peer P -- COMMAND`";
}

std::optional<std::string> why_not_preloadable(const std::string &file,
                                               const std::string &library) {
    std::string program = file;
    std::ifstream stream(program, std::ios::binary);
    char head[script_line_max];
    stream.read(head, sizeof(head));
    if (std::string script =
            interpreter(std::string_view(head, static_cast<std::size_t>(stream.gcount())));
        !script.empty()) {
        program = script;
        stream = std::ifstream(program, std::ios::binary);
    }

    if (const char *reason = secure_for(program))
        return program + " is " + reason + ": the dynamic linker ignores LD_PRELOAD for it";

    stream.clear();
    std::ifstream library_stream(library, std::ios::binary);
    ElfHeader header;
    ElfHeader library_header;
    if (!read_header(stream, header))
        return std::nullopt;
    if (read_header(library_stream, library_header) && !same_architecture(header, library_header))
        return program + " is built for another architecture than " + library;
    std::string reason;
    if (is_go(stream, header))
        reason = " is written in Go, whose programs make their system calls themselves: what is "
                 "preloaded does not see them";
    else if (!has_interpreter(stream, header))
        reason = " is statically linked: nothing can be preloaded into it";
    else
        return std::nullopt;
    return program + reason + ". If it only starts the server, `synergy run` belongs behind it";
}

/// The keeper that the library would start (preload/keeper_start.c); empty: there is none.
std::string find_keeper(const std::string &library) {
    const std::string directory = std::filesystem::path(library).parent_path();
    for (const std::string &place :
         {directory + "/synergy-keeper", directory + "/../src/synergy-keeper",
          directory + "/" SYNERGY_KEEPER_FROM_LIBRARY, std::string(SYNERGY_KEEPER)})
        if (::access(place.c_str(), X_OK) == 0)
            return place;
    return {};
}

} // namespace

std::vector<std::vector<std::string>> commands_in(const std::vector<std::string> &words) {
    const auto run = std::adjacent_find(
        words.begin(), words.end(), [](const std::string &word, const std::string &next) {
            return std::filesystem::path(word).filename() == "synergy" && next == "run";
        });
    std::vector<std::string> command = words;
    if (run != words.end()) {
        const auto dashes = std::find(run, words.end(), "--");
        command.assign(dashes == words.end() ? dashes : dashes + 1, words.end());
    }
    std::vector<std::vector<std::string>> commands;
    for (; !command.empty(); command = started_by(command))
        commands.push_back(command);
    return commands;
}

std::string setting_by_env(const std::vector<std::vector<std::string>> &commands) {
    for (const std::vector<std::string> &command : commands)
        for (const std::string &word : words_of_env(command).set)
            if (word.starts_with("SYNERGY_"))
                return word.substr(0, word.find('='));
    return {};
}

std::optional<std::string> why_left_out(const std::vector<std::vector<std::string>> &commands,
                                        const std::string &library) {
    for (const std::vector<std::string> &command : commands) {
        if (std::optional<std::string> reason = why_not_passed_on(command))
            return reason;
        if (const std::string file = find_command(command[0]); !file.empty())
            if (std::optional<std::string> reason = why_not_preloadable(file, library))
                return reason;
    }
    return std::nullopt;
}

std::string library_objection(const std::string &library) {
    if (library.find_first_of(": ") != std::string::npos)
        return library + ": a path with a colon or a space can't be in LD_PRELOAD";
    if (!library.empty())
        return find_keeper(library).empty()
                   ? "synergy-keeper is neither beside " + library + " nor installed"
                   : "";
    if (::access("/proc/self/exe", F_OK) != 0)
        return "/proc is not mounted, so this program can't tell where it lies, and libsynergy.so";
    return "libsynergy.so is neither in ../preload nor in ../" SYNERGY_LIBDIR
           " beside this program";
}

std::string find_library() {
    std::error_code error;
    const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
    for (const char *directory : {"preload", SYNERGY_LIBDIR}) {
        const std::filesystem::path library =
            (self.parent_path().parent_path() / directory / "libsynergy.so").lexically_normal();
        if (std::filesystem::exists(library, error))
            return library;
    }
    return {};
}

std::string find_command(const std::string &command) {
    if (command.find('/') != std::string::npos)
        return is_program(command) ? command : "";
    const char *variable = std::getenv("PATH");
    std::string_view path = variable != nullptr ? variable : "/bin:/usr/bin";
    for (;;) {
        const std::size_t colon = path.find(':');
        const std::string_view directory = path.substr(0, colon);
        // An empty entry is the current directory.
        std::string file(directory.empty() ? "." : directory);
        file.append("/").append(command);
        if (is_program(file))
            return file;
        if (colon == std::string_view::npos)
            return {};
        path.remove_prefix(colon + 1);
    }
}

} // namespace synergy
