#include "settings_look.h"

#include "keeper_start.h"
#include "process.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>
#include <sys/auxv.h>
#include <unistd.h>

int concern = NOT_LOOKED;

static char **kept;

static int is_log_off;

/* SYNERGY_PORTS, where it alone decides: ranges, both ends included. */
enum { RANGES = 32, ANY = -1 };
static struct { uint16_t first, last; } ranges[RANGES];
static int range_count = ANY;

/* Whether to trust the environment: that of a set-user-ID program is somebody else's. */
static int is_trusted(void) {
    return getauxval(AT_SECURE) == 0;
}

/* The value if the entry ("NAME=value") is of this name. */
static const char *value_of(const char *entry, const char *name) {
    size_t length = strlen(name);
    return strncmp(entry, name, length) == 0 && entry[length] == '=' ? entry + length + 1 : NULL;
}

static const char *variable(char **environment, const char *name) {
    for (; environment && *environment; environment++) {
        const char *value = value_of(*environment, name);
        if (value)
            return value;
    }
    return NULL;
}

/* Also in small letters, which is a mistake that the keeper names. */
static int is_ours(const char *entry) {
    return strncasecmp(entry, "SYNERGY_", 8) == 0;
}

static int is_kept(const char *entry) {
    static const char *const names[] = {"HOME",        "PATH",        "TZ", "LANG",
                                        "RES_OPTIONS", "LOCALDOMAIN", NULL};
    static const char *const beginnings[] = {"XDG_", "LC_", NULL};
    for (const char *const *name = names; *name; name++)
        if (value_of(entry, *name))
            return 1;
    for (const char *const *beginning = beginnings; *beginning; beginning++)
        if (strncmp(entry, *beginning, strlen(*beginning)) == 0)
            return 1;
    return is_ours(entry);
}

/* By value: servers wipe their environment, and write their titles over it. */
static int keep(char **environment) {
    size_t count = 1, size = 0;
    for (char **entry = environment; entry && *entry; entry++)
        if (is_kept(*entry)) {
            count++;
            size += strlen(*entry) + 1;
        }
    char **list = process_begin(count * sizeof *list + size);
    if (!list)
        return 0;
    char *text = (char *)(list + count), **next = list;
    for (char **entry = environment; entry && *entry; entry++)
        if (is_kept(*entry)) {
            *next++ = text;
            text = stpcpy(text, *entry) + 1;
        }
    *next = NULL;
    kept = list;
    find_keeper();
    return 1;
}

/* `is_hidden_too`: where it may be, and this user may not look. */
static int is_there(const char *directory, const char *below, int is_hidden_too) {
    char path[1024];
    size_t length = strlen(directory), more = strlen(below);
    if (length + more >= sizeof path)
        return 1; /* the keeper will see */
    memcpy(path, directory, length);
    memcpy(path + length, below, more + 1);
    return access(path, F_OK) == 0 || (is_hidden_too && errno == EACCES);
}

/* What can't be looked for is somebody's mistake where nothing else is set: the keeper says so. */
static int has_config_file(char **environment, int is_hidden_too) {
    const char *config = variable(environment, "XDG_CONFIG_HOME"),
               *home = variable(environment, "HOME");
    if (config && *config == '/') {
        if (is_there(config, "/synergy/synergy.toml", is_hidden_too))
            return 1;
    } else if (home && *home == '/' &&
               is_there(home, "/.config/synergy/synergy.toml", is_hidden_too)) {
        return 1;
    }
    return is_there(SYNERGY_SYSCONFDIR, "/synergy/synergy.toml", 0);
}

static int has_variables(char **environment) {
    for (; environment && *environment; environment++)
        if (is_ours(*environment))
            return 1;
    return 0;
}

/* A port, or another number as small, at the beginning of the text, which goes on behind it; 0:
 * there is none. */
static uint16_t port_at(const char **text) {
    unsigned long port = 0;
    for (; **text >= '0' && **text <= '9'; ++*text)
        if ((port = port * 10 + (unsigned long)(**text - '0')) > UINT16_MAX)
            return 0;
    return (uint16_t)port;
}

/* As the keeper reads it: white space around a value is no part of it. */
static const char white_space[] = " \t\n\v\f\r";

static int is_value(const char *text, const char *value) {
    size_t length = strlen(value);
    text += strspn(text, white_space);
    return strncmp(text, value, length) == 0 &&
           text[length + strspn(text + length, white_space)] == 0;
}

/* "4444,5000-5010". What is not written like that may be anything: the keeper will say. */
static int read_ranges(const char *text) {
    static const char separators[] = ", \t\n\v\f\r";
    int count = 0;
    for (text += strspn(text, separators); *text; text += strspn(text, separators)) {
        uint16_t first = port_at(&text), last = first;
        if (*text == '-') {
            text++;
            last = port_at(&text);
        }
        if (count == RANGES || first == 0 || last < first || (*text && !strchr(separators, *text)))
            return ANY;
        ranges[count].first = first;
        ranges[count].last = last;
        count++;
    }
    return count > 0 ? count : ANY;
}

int passed_at_start;

static int names_library(const char *preload) {
    return preload && strstr(preload, "libsynergy.so");
}

/* Or else it is named in /etc/ld.so.preload, or linked. */
static int is_named_by_environment;

int is_library_in(char *const environment[]) {
    return !is_named_by_environment || names_library(variable((char **)environment, "LD_PRELOAD"));
}

void look_for_settings(char **environment) {
    is_named_by_environment = names_library(variable(environment, "LD_PRELOAD"));
    if (!is_trusted())
        environment = NULL;
    int is_set = has_variables(environment);
    int has_file = has_config_file(environment, !is_set);
    int found = has_file || is_set;
    if (found) {
        const char *ports = variable(environment, "SYNERGY_PORTS"),
                   *log = variable(environment, "SYNERGY_LOG");
        is_log_off = log && is_value(log, "off");
        /* Files beside a config file may name further ports. */
        if (ports && !has_file && !variable(environment, "SYNERGY_CONFIG"))
            range_count = read_ranges(ports);
        found = keep(environment);
        const char *passed = variable(environment, "LISTEN_FDS");
        passed_at_start = passed ? 3 + port_at(&passed) : 0;
    }
    __atomic_store_n(&concern, found ? SOMETHING : NOTHING, __ATOMIC_RELEASE);
}

const char *settings_variable(const char *name) {
    return variable(kept, name);
}

void stop_caring(void) {
    __atomic_store_n(&concern, NOTHING, __ATOMIC_RELEASE);
}

int care(void) {
    if (!kept && !keep(is_trusted() ? environ : NULL))
        return 0;
    __atomic_store_n(&concern, SOMETHING, __ATOMIC_RELEASE);
    return 1;
}

int settings_mean_port(uint16_t port) {
    if (range_count == ANY)
        return 1;
    for (int i = 0; i < range_count; i++)
        if (port >= ranges[i].first && port <= ranges[i].last)
            return 1;
    return 0;
}

int settings_want_silence(void) {
    return is_log_off;
}

char **keeper_environment(void) {
    return kept;
}
