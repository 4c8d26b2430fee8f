#include "settings/host_names.h"

#include "base/log.h"
#include "base/rights.h"
#include "settings/settings_text.h"

#include <algorithm>
#include <chrono>
#include <fcntl.h>
#include <netdb.h>
#include <new>
#include <sys/epoll.h>
#include <system_error>
#include <thread>
#include <unistd.h>

namespace synergy {

namespace {

/// getaddrinfo(3) takes as long as the network makes it, so that each name has a thread to wait in.
constexpr std::size_t at_once = 8;

/// Answers to many questions come at once.
constexpr Duration gathering_time = std::chrono::milliseconds(50);

/// Enough to tell one order of the same addresses from another set of them.
bool is_before(const Endpoint &one, const Endpoint &other) {
    return one.family() != other.family() ? one.family() > other.family()
                                          : one.address_text() < other.address_text();
}

std::string text(const std::vector<Endpoint> &addresses) {
    std::string all;
    for (const Endpoint &address : addresses)
        all.append(all.empty() ? "" : ", ").append(address.address_text());
    return all;
}

} // namespace

ResolvedHost resolve_host(const std::string &host) {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM; // each address once
    const bool is_ascii = std::none_of(host.begin(), host.end(),
                                       [](char c) { return static_cast<unsigned char>(c) > 127; });
    hints.ai_flags = is_ascii ? 0 : AI_IDN;
    addrinfo *list = nullptr;
    ResolvedHost found;
    found.error = getaddrinfo(host.c_str(), nullptr, &hints, &list);
    for (const addrinfo *each = list; found.error == 0 && each != nullptr; each = each->ai_next) {
        const Endpoint address = Endpoint::from(each->ai_addr, each->ai_addrlen).unmapped();
        // A name that somebody blocks is often answered with 0.0.0.0 or 127.0.0.1, and a host's own
        // name stands for 127.0.1.1 in Debian's /etc/hosts.
        if (!address.empty())
            (check_host(address) == nullptr && !address.is_loopback() ? found.addresses
                                                                      : found.useless)
                .push_back(address);
    }
    if (list != nullptr)
        freeaddrinfo(list);
    if (found.error == 0 && found.addresses.empty())
        found.error = EAI_NONAME;
    auto &addresses = found.addresses;
    std::sort(addresses.begin(), addresses.end(), is_before);
    addresses.erase(std::unique(addresses.begin(), addresses.end()), addresses.end());
    return found;
}

std::string ResolvedHost::what_is_wrong() const {
    if (useless.empty())
        return std::string("does not resolve: ") + gai_strerror(error);
    return "resolves to " + text(useless) +
           ", which is no peer's address (does a line of /etc/hosts say so, or a name server that "
           "blocks it?)";
}

struct HostNames::Answer {
    std::string host;
    ResolvedHost found;
};

/// What goes through it is the answers' memory: whole, and from one thread to another. Whatever
/// comes too late goes with the pipe.
struct HostNames::Pipe {
    struct Message {
        Answer *answer = nullptr;
    };

    Socket out;
    Socket in;

    Pipe() {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
            throw std::system_error(errno, std::generic_category(), "pipe");
        out = Socket(ends[0]);
        in = Socket(ends[1]);
    }
    ~Pipe() {
        while (next())
            ;
    }
    Pipe(const Pipe &) = delete;
    Pipe &operator=(const Pipe &) = delete;

    void put(Answer *answer) const {
        const Message message{answer};
        if (::write(in.fd(), &message, sizeof message) != sizeof message)
            delete answer;
    }
    [[nodiscard]] std::unique_ptr<Answer> next() const {
        Message message;
        if (::read(out.fd(), &message, sizeof message) != sizeof message)
            return nullptr;
        return std::unique_ptr<Answer>(message.answer);
    }
};

HostNames::HostNames(Scheduler &scheduler, std::function<void()> changed)
    : scheduler_(scheduler), changed_(std::move(changed)), due_(scheduler),
      answers_(std::make_shared<const Pipe>()) {
    if (!scheduler_.watch(answers_->out.fd(), EPOLLIN, [this](std::uint32_t) { take_answers(); }))
        throw std::system_error(errno, std::generic_category(), "epoll_ctl");
}

HostNames::~HostNames() {
    scheduler_.unwatch(answers_->out.fd());
}

void HostNames::follow(const std::set<std::string> &hosts, Duration interval) {
    interval_ = interval;
    std::erase_if(hosts_, [&](const auto &entry) { return !hosts.contains(entry.first); });
    std::erase_if(addresses_, [&](const auto &entry) { return !hosts.contains(entry.first); });
    std::erase_if(waiting_, [&](const std::string &host) { return !hosts.contains(host); });
    for (const std::string &host : hosts)
        if (hosts_.try_emplace(host, scheduler_).second)
            ask(host);
}

void HostNames::ask(const std::string &host) {
    waiting_.push_back(host);
    ask_more();
}

void HostNames::ask_more() {
    while (under_way_ < at_once && !waiting_.empty()) {
        const std::string host = waiting_.front();
        waiting_.pop_front();
        auto answer = std::make_unique<Answer>(Answer{host, {}});
        try {
            std::thread([answer = answer.get(), pipe = answers_]() noexcept {
                leave_rights();
                try {
                    answer->found = resolve_host(answer->host);
                } catch (const std::bad_alloc &) {
                    answer->found.error = EAI_MEMORY;
                }
                pipe->put(answer);
            }).detach();
            static_cast<void>(answer.release()); // the thread's, and then the pipe's
            under_way_++;
        } catch (const std::system_error &) {
            take({host, {.error = EAI_AGAIN, .addresses = {}, .useless = {}}});
        }
    }
}

void HostNames::take_answers() {
    while (const auto answer = answers_->next()) {
        under_way_--;
        take(*answer);
    }
    ask_more();
}

void HostNames::take(const Answer &answer) {
    const auto found = hosts_.find(answer.host);
    if (found == hosts_.end())
        return;
    Host &host = found->second;
    host.next.set(Clock::now() + interval_, [this, name = answer.host] { ask(name); });
    std::vector<Endpoint> &known = addresses_[answer.host];
    if (answer.found.error != 0) {
        if (host.said.empty()) {
            const auto interval = std::chrono::duration_cast<std::chrono::seconds>(interval_);
            host.said = answer.host + " " + answer.found.what_is_wrong() + "; " +
                        (known.empty() ? "nothing is punched for it"
                                       : "its addresses so far stay in force") +
                        ", and it is tried again every " + std::to_string(interval.count()) + " s";
            log::warn_once(host.said);
        }
        return;
    }
    log::over(std::exchange(host.said, {}));
    if (known == answer.found.addresses)
        return;
    known = answer.found.addresses;
    log::info("{} is {}", answer.host, text(known));
    if (!std::exchange(is_due_, true))
        due_.set(Clock::now() + gathering_time, [this] {
            is_due_ = false;
            changed_();
        });
}

} // namespace synergy
