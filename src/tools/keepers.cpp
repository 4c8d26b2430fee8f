#include "tools/keepers.h"

#include "base/abstract_socket.h"
#include "wire.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace synergy {

namespace {

using Json = nlohmann::ordered_json;

/// A keeper answers at once, or is stopped.
constexpr auto patience = std::chrono::seconds(1);
/// Of 4,096 peers for each of many listeners; whoever sends more is no keeper.
constexpr off_t document_most = 64 << 20;

/// unix(7), "/proc interfaces": the abstract names that keepers listen under.
std::set<std::string> keeper_names() {
    std::ifstream list("/proc/net/unix");
    if (!list)
        throw std::system_error(errno, std::generic_category(), "/proc/net/unix");
    std::set<std::string> names;
    const std::string beginning = "@" SYNERGY_KEEPER_NAME;
    for (std::string line; std::getline(list, line);) {
        // The sockets that were accepted there have the same name.
        const std::size_t at = line.rfind(' ');
        if (at != std::string::npos && line.compare(at + 1, beginning.size(), beginning) == 0)
            names.insert(line.substr(at + 2));
    }
    return names;
}

/// The memory file that comes with the answer; empty and errno set if none does.
Socket receive_file(const Socket &connection) {
    synergy_answer answer{};
    iovec data{.iov_base = &answer, .iov_len = sizeof answer};
    alignas(cmsghdr) std::array<char, CMSG_LEN(sizeof(int))> control{};
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    const ssize_t size = ::recvmsg(connection.fd(), &header, MSG_CMSG_CLOEXEC);
    Socket file = size < 0 ? Socket{} : descriptor_in(header);
    if (size == 0)
        errno = ECONNRESET; // of another release, or it has just ended
    else if (size > 0 && !file)
        errno = answer.result != 0 ? answer.result : EPROTO;
    return file;
}

/// Its sender is trusted with nothing: not to be a file, nor to be short.
std::string content_of(const Socket &file) {
    struct stat status {};
    if (fstat(file.fd(), &status) != 0 || !S_ISREG(status.st_mode) ||
        status.st_size > document_most) {
        errno = EPROTO;
        return {};
    }
    std::string content(static_cast<std::size_t>(status.st_size), '\0');
    const ssize_t size = ::pread(file.fd(), content.data(), content.size(), 0);
    content.resize(static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
    return content;
}

std::string program_of(pid_t process) {
    std::ifstream file("/proc/" + std::to_string(process) + "/comm");
    std::string name;
    std::getline(file, name);
    return name;
}

/// Only what is as it is described gets any further.
bool is_as_described(const Json &keeper) {
    const auto is_list = [](const Json &json, const char *name) {
        return json.contains(name) && json[name].is_array();
    };
    if (!keeper.is_object() || !is_list(keeper, "processes") || !is_list(keeper, "sockets"))
        return false;
    const auto is_text = [](const Json &json, const char *name, bool may_be_null = false) {
        return json.contains(name) &&
               (json[name].is_string() || (may_be_null && json[name].is_null()));
    };
    const auto is_hole = [&](const Json &hole) {
        return hole.is_object() && is_text(hole, "peer") && is_text(hole, "state") &&
               is_text(hole, "source", true) && is_text(hole, "router", true) &&
               hole.contains("hop_limit") && hole["hop_limit"].is_number_integer();
    };
    const auto is_unpunched = [&](const Json &peer) {
        return peer.is_object() && is_text(peer, "peer") && is_text(peer, "reason");
    };
    const auto is_socket = [&](const Json &socket) {
        return socket.is_object() && is_text(socket, "protocol") && is_text(socket, "local") &&
               is_list(socket, "holes") && is_list(socket, "without_hole") &&
               std::all_of(socket["holes"].begin(), socket["holes"].end(), is_hole) &&
               std::all_of(socket["without_hole"].begin(), socket["without_hole"].end(),
                           is_unpunched);
    };
    return std::all_of(keeper["processes"].begin(), keeper["processes"].end(),
                       [](const Json &process) { return process.is_number_integer(); }) &&
           std::all_of(keeper["sockets"].begin(), keeper["sockets"].end(), is_socket);
}

Json processes_json(const Json &numbers) {
    Json list = Json::array();
    for (const Json &number : numbers) {
        const auto process = number.get<pid_t>();
        list.push_back({{"pid", process}, {"program", program_of(process)}});
    }
    return list;
}

/// A keeper that is there and does not say anything is shown as well: with its error.
Json ask(const Socket &connection, const ucred &owner) {
    Json keeper = {{"pid", owner.pid}, {"user", owner.uid}};
    const auto failed = [&](const char *why) {
        keeper["error"] = why;
        return keeper;
    };
    synergy_request request{};
    request.version = SYNERGY_WIRE_VERSION;
    request.kind = SYNERGY_STATUS;
    if (::send(connection.fd(), &request, sizeof request, MSG_NOSIGNAL) < 0)
        return failed(strerrordesc_np(errno));
    const Socket file = receive_file(connection);
    if (!file)
        return failed(errno == EAGAIN ? "does not answer" : strerrordesc_np(errno));
    const Json said = Json::parse(content_of(file), nullptr, false);
    if (!is_as_described(said))
        return failed("answers what can't be read");
    keeper["processes"] = processes_json(said["processes"]);
    keeper["sockets"] = said["sockets"];
    return keeper;
}

/// proc(5), /proc/pid/maps.
bool has_library(const std::string &process) {
    std::ifstream maps("/proc/" + process + "/maps");
    for (std::string line; std::getline(maps, line);)
        if (line.find("/libsynergy.so") != std::string::npos)
            return true;
    return false;
}

/// Those who have the library and whom no keeper knows.
Json without_keeper(const std::set<pid_t> &known) {
    Json list = Json::array();
    const uid_t user = geteuid();
    std::error_code error;
    for (const auto &entry : std::filesystem::directory_iterator("/proc", error)) {
        const std::string name = entry.path().filename();
        pid_t process = 0;
        const auto parsed = std::from_chars(name.data(), name.data() + name.size(), process);
        struct stat status {};
        if (parsed.ec != std::errc() || *parsed.ptr != '\0' || known.contains(process) ||
            stat(entry.path().c_str(), &status) != 0 || (user != 0 && status.st_uid != user) ||
            !has_library(name))
            continue;
        list.push_back(
            {{"pid", process}, {"user", status.st_uid}, {"program", program_of(process)}});
    }
    return list;
}

} // namespace

Json ask_keepers() {
    Json keepers = Json::array();
    std::set<pid_t> known;
    for (const std::string &name : keeper_names()) {
        const Socket connection = connected_to(name, patience);
        const auto owner = connection ? peer_credentials(connection) : std::nullopt;
        if (!owner || (geteuid() != 0 && owner->uid != geteuid()))
            continue;
        known.insert(owner->pid);
        Json keeper = ask(connection, *owner);
        if (keeper.contains("processes"))
            for (const Json &process : keeper["processes"])
                known.insert(process["pid"].get<pid_t>());
        keepers.push_back(std::move(keeper));
    }
    std::sort(keepers.begin(), keepers.end(), [](const Json &one, const Json &other) {
        return one["pid"].get<pid_t>() < other["pid"].get<pid_t>();
    });
    // Whose processes they are a keeper alone knows that does not answer.
    const bool are_all_known = std::all_of(keepers.begin(), keepers.end(), [](const Json &keeper) {
        return keeper.contains("processes");
    });
    return {{"keepers", std::move(keepers)},
            {"without_keeper", are_all_known ? without_keeper(known) : Json::array()}};
}

} // namespace synergy
