#include "settings_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <initializer_list>
#include <string_view>

// A mistake in the file comes back as a value: nothing is thrown for it.
#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace synergy {

namespace {

/// Far more than any real one; whatever else is named by mistake must not fill the memory.
constexpr std::size_t file_size_max = std::size_t{1} << 20;

/// The descriptor of an open file, closed with the value.
class Descriptor {
  public:
    explicit Descriptor(int number) : number_(number) {}
    ~Descriptor() {
        if (number_ >= 0)
            ::close(number_);
    }
    Descriptor(const Descriptor &) = delete;
    Descriptor &operator=(const Descriptor &) = delete;

    [[nodiscard]] int number() const { return number_; }

  private:
    int number_;
};

/// Appends what is in the file; 0, or what went wrong as errno says it.
int read_whole(int descriptor, std::string &content) {
    char buffer[4096];
    for (;;) {
        const ssize_t count = ::read(descriptor, buffer, sizeof(buffer));
        if (count == 0)
            return 0;
        if (count < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        content.append(buffer, static_cast<std::size_t>(count));
        if (content.size() > file_size_max)
            return EFBIG;
    }
}

int read_file(const std::string &path, std::string &content) {
    // Not blocking, since opening a pipe would otherwise stop the server until somebody writes.
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    if (file.number() < 0)
        return errno;
    struct stat status;
    if (::fstat(file.number(), &status) != 0)
        return errno;
    // A pipe gives its content to one reader only, and every process of the server wants it.
    if (S_ISFIFO(status.st_mode))
        return ESPIPE;
    return read_whole(file.number(), content);
}

/// The text of a config file, to show the parts that are wrong.
class Source {
  public:
    Source(const std::string &path, std::string_view text) : path_(path), text_(text) {}

    [[nodiscard]] std::string place(const toml::source_position &at) const {
        return path_ + ":" + std::to_string(at.line) + ":" + std::to_string(at.column);
    }

    /// What stands in a region, as far as it is on one line.
    [[nodiscard]] std::string text(const toml::source_region &region) const {
        std::string_view line = line_at(region.begin.line);
        if (region.end.line == region.begin.line && region.end.column > region.begin.column)
            line = line.substr(0, offset(line, region.end.column));
        return std::string(line.substr(offset(line, region.begin.column)));
    }

    [[nodiscard]] std::string line(const toml::source_position &at) const {
        return std::string(line_at(at.line));
    }

  private:
    [[nodiscard]] std::string_view line_at(toml::source_index number) const {
        std::string_view rest = text_;
        for (; number > 1; --number) {
            const std::size_t end = rest.find('\n');
            if (end == std::string_view::npos)
                return {};
            rest.remove_prefix(end + 1);
        }
        rest = rest.substr(0, rest.find('\n'));
        while (!rest.empty() && (rest.back() == '\r' || rest.back() == ' ' || rest.back() == '\t'))
            rest.remove_suffix(1);
        return rest;
    }

    /// Columns count characters, not bytes.
    static std::size_t offset(std::string_view line, toml::source_index column) {
        std::size_t at = 0;
        for (; at < line.size(); ++at) {
            const bool continues = (static_cast<unsigned char>(line[at]) & 0xc0U) == 0x80U;
            if (!continues && column-- <= 1)
                break;
        }
        return at;
    }

    const std::string &path_;
    std::string_view text_;
};

/// Takes the settings out of the parsed file.
class Reader {
  public:
    Reader(const Source &source, ConfigFile &file) : source_(source), file_(file) {}

    void read(const toml::table &root) {
        name_unknown(root, {"peers", "hops", "local", "refresh", "log", "log_file", "listen"});
        file_.peers = list(root, "peers");
        file_.hops = value(root, "hops");
        file_.local = list(root, "local");
        file_.refresh = value(root, "refresh");
        file_.log = value(root, "log");
        file_.log_file = value(root, "log_file");
        if (const toml::node *node = root.get("listen"))
            read_listen(*node);
    }

  private:
    void read_listen(const toml::node &node) {
        const toml::array *sections = node.as_array();
        if (sections == nullptr)
            return refuse(node);
        for (const toml::node &section : *sections) {
            if (const toml::table *table = section.as_table())
                read_section(*table);
            else
                refuse(section);
        }
    }

    void read_section(const toml::table &table) {
        name_unknown(table, {"port", "protocol", "peers", "hops"});
        // Without it the section would hold for every port, which a misspelt key must not bring.
        std::optional<std::vector<Written>> ports = list(table, "port");
        if (!ports || ports->empty()) {
            const toml::node *empty = table.get("port");
            const toml::source_region &region = (empty != nullptr ? *empty : table).source();
            file_.problems.push_back({source_.place(region.begin), source_.text(region),
                                      "at least one port: port = 4444, \"5000-5010\" or an array "
                                      "of those"});
            file_.sound = false;
            return;
        }
        file_.listen.push_back({std::move(*ports), value(table, "protocol"), list(table, "peers"),
                                value(table, "hops")});
    }

    void refuse(const toml::node &node) {
        file_.problems.push_back({source_.place(node.source().begin), source_.text(node.source()),
                                  "sections that begin with [[listen]]"});
        file_.sound = false;
    }

    void name_unknown(const toml::table &table, std::initializer_list<std::string_view> known) {
        for (const auto &[key, node] : table) {
            bool is_known = false;
            std::string expected;
            for (const std::string_view each : known) {
                is_known = is_known || key.str() == each;
                expected.append(expected.empty() ? "one of the keys " : ", ").append(each);
            }
            if (!is_known)
                file_.problems.push_back({source_.place(key.source().begin), std::string(key.str()),
                                          std::move(expected)});
        }
    }

    [[nodiscard]] Written written(const toml::node &node) const {
        const std::string place = source_.place(node.source().begin);
        if (const auto *text = node.as_string())
            return {place, text->get()};
        if (const auto *number = node.as_integer())
            return {place, std::to_string(number->get())};
        return {place, source_.text(node.source()), false};
    }

    [[nodiscard]] std::optional<Written> value(const toml::table &table,
                                               std::string_view key) const {
        if (const toml::node *node = table.get(key))
            return written(*node);
        return std::nullopt;
    }

    /// One value alone is a list too.
    [[nodiscard]] std::optional<std::vector<Written>> list(const toml::table &table,
                                                           std::string_view key) const {
        const toml::node *node = table.get(key);
        if (node == nullptr)
            return std::nullopt;
        std::vector<Written> values;
        if (const toml::array *array = node->as_array()) {
            for (const toml::node &each : *array)
                values.push_back(written(each));
        } else {
            values.push_back(written(*node));
        }
        return values;
    }

    const Source &source_;
    ConfigFile &file_;
};

void parse(const std::string &content, ConfigFile &file) {
    const Source source(file.path, content);
    const toml::parse_result result = toml::parse(content);
    if (!result) {
        const toml::parse_error &error = result.error();
        file.problems.push_back({source.place(error.source().begin),
                                 source.line(error.source().begin),
                                 "valid TOML: " + std::string(error.description())});
        file.sound = false;
        return;
    }
    Reader(source, file).read(result.table());
}

} // namespace

std::vector<std::string> config_places(const Environment &environment) {
    const auto variable = [&](const char *name) -> std::string {
        const char *text = environment(name);
        return text != nullptr ? text : "";
    };
    if (std::string named = variable("SYNERGY_CONFIG"); !named.empty())
        return {std::move(named)};

    std::vector<std::string> places;
    // A path that depends on where the server happens to be is none (XDG Base Directory: "must be
    // absolute").
    const std::string xdg = variable("XDG_CONFIG_HOME");
    const std::string home = variable("HOME");
    if (xdg.starts_with('/'))
        places.push_back(xdg + "/synergy/synergy.toml");
    else if (home.starts_with('/'))
        places.push_back(home + "/.config/synergy/synergy.toml");
    places.emplace_back(SYNERGY_SYSCONFDIR "/synergy/synergy.toml");
    return places;
}

ConfigFile read_config_file(const Environment &environment) {
    const char *variable = environment("SYNERGY_CONFIG");
    const bool named = variable != nullptr && *variable != '\0';
    ConfigFile file;
    for (const std::string &place : config_places(environment)) {
        std::string content;
        const int error = read_file(place, content);
        struct stat status;
        // A home that this process may not look into has no file for it.
        if (error != 0 && !named && ::stat(place.c_str(), &status) != 0)
            continue;
        file.path = place;
        if (error == 0) {
            parse(content, file);
        } else {
            file.problems.push_back({named ? "SYNERGY_CONFIG" : "config file", place,
                                     std::string("a file that can be read: ") + strerror(error)});
            file.sound = false;
        }
        break;
    }
    return file;
}

} // namespace synergy
