#include "settings/live_settings.h"

#include "base/log.h"
#include "settings/load_settings.h"

#include <algorithm>
#include <cstring>
#include <system_error>

namespace synergy {

LiveSettings::LiveSettings(Scheduler &scheduler, Settings initial, std::function<void()> changed)
    : scheduler_(scheduler), now_(std::move(initial)), changed_(std::move(changed)),
      next_try_(scheduler) {
    for (const Problem &problem : now_.problems) {
        said_.insert(text_of(problem));
        is_file_in_force_ &= !is_of_file(problem);
    }
    say_passed_over({});
}

/// What is known of it: the name of a file that can't be read may stand in a variable or not.
std::string LiveSettings::text_of(const Problem &problem) const {
    return problem.text == now_.file ? problem.expected : problem.line();
}

bool LiveSettings::is_of_file(const Problem &problem) const {
    return problem.place.starts_with(now_.file) || problem.text == now_.file;
}

bool LiveSettings::follow_file() {
    if (!now_.follows_file || watch_)
        return false;
    watch_.emplace(scheduler_, now_.file, [this] {
        if (reload())
            changed_();
    });
    if (int error = watch_->begin(); error != 0)
        log::warn("{}: changes will not be seen before a restart: {}", now_.file,
                  strerrordesc_np(error));
    return reload();
}

void LiveSettings::follow_names() {
    if (!std::exchange(follows_names_, true))
        resolve();
}

void LiveSettings::forget_names() {
    follows_names_ = false;
    next_try_.cancel();
    if (names_)
        names_->follow({}, now_.refresh);
}

bool LiveSettings::reload() {
    const Settings before = now_;
    now_ = reload_settings(now_);
    say_problems();
    say_passed_over(before.passed_over);
    is_file_in_force_ |=
        std::none_of(now_.problems.begin(), now_.problems.end(),
                     [this](const Problem &problem) { return is_of_file(problem); });
    if (follows_names_)
        resolve();
    return now_ != before;
}

void LiveSettings::resolve() {
    const std::set<std::string> hosts = now_.hosts();
    if (!names_ && hosts.empty())
        return;
    if (!names_) {
        try {
            names_.emplace(scheduler_, [this] {
                now_.addresses = names_->addresses();
                changed_();
            });
        } catch (const std::system_error &error) {
            log::warn("host names can't be resolved: {}", error.what());
            next_try_.set(Clock::now() + now_.refresh, [this] { resolve(); });
            return;
        }
    }
    names_->follow(hosts, now_.refresh);
    now_.addresses = names_->addresses();
}

/// Each once, until it is mended.
void LiveSettings::say_problems() {
    std::set<std::string> lines;
    for (const Problem &problem : now_.problems) {
        const std::string text = text_of(problem);
        lines.insert(text);
        if (!said_.contains(text))
            log::error("{}; {}", problem.line(),
                       is_in_force(problem) ? "what the file said before stays in force"
                                            : "nothing of the file is in force");
    }
    said_ = std::move(lines);
}

void LiveSettings::say_passed_over(const std::vector<PassedOver> &before) const {
    for (const PassedOver &file : before)
        if (std::find(now_.passed_over.begin(), now_.passed_over.end(), file) ==
            now_.passed_over.end())
            log::over(file.line());
    for (const PassedOver &file : now_.passed_over)
        log::once(file.is_mistake ? LogLevel::warn : LogLevel::info, file.line());
}

/// Whether there is anything that a file with this mistake has said before.
bool LiveSettings::is_in_force(const Problem &problem) const {
    for (const PeerFile &file : now_.peer_files)
        if (problem.place.starts_with(file.path) || problem.text == file.path)
            return file.is_right;
    return is_file_in_force_;
}

} // namespace synergy
