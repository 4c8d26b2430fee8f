#include "keeper/family.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <new>
#include <sys/mman.h>
#include <sys/random.h>
#include <system_error>
#include <unistd.h>

namespace synergy {

namespace {

std::uint64_t packed(const std::array<char, 5> &name) {
    std::uint64_t value = 0;
    std::memcpy(&value, name.data(), name.size());
    return value;
}

} // namespace

Family &Family::get() {
    static auto *family = new Family;
    return *family;
}

Family::Family() {
    void *memory =
        mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        throw std::system_error(errno, std::generic_category(), "mmap");
    page_ = new (memory) Page{};
    if (getrandom(secret_.data(), secret_.size(), 0) != static_cast<ssize_t>(secret_.size()))
        throw std::system_error(errno, std::generic_category(), "getrandom");
}

std::optional<std::uint8_t> Family::join(const EngineAddress &address) {
    for (std::size_t i = 0; i < page_->slots.size(); i++) {
        Slot &slot = page_->slots[i];
        std::int32_t owner = slot.process;
        bool is_free = owner == 0 || (owner > 0 && owner == address.process) ||
                       (owner > 0 && kill(owner, 0) != 0 && errno == ESRCH);
        if (!is_free || !slot.process.compare_exchange_strong(owner, -1))
            continue;
        slot.name = packed(address.name);
        slot.process = address.process;
        return static_cast<std::uint8_t>(i);
    }
    return std::nullopt;
}

bool Family::has(const EngineAddress &address) const {
    for (const Slot &slot : page_->slots)
        if (slot.process == address.process && slot.name == packed(address.name))
            return true;
    return false;
}

bool Family::ring(std::uint16_t port, std::uint8_t slot) {
    std::uint8_t none = 0;
    auto mark = static_cast<std::uint8_t>(slot + 1);
    if (!page_->doorbells[port].compare_exchange_strong(none, mark))
        return false;
    page_->ringing++;
    return true;
}

void Family::silence(std::uint16_t port) {
    page_->doorbells[port] = 0;
}

std::optional<EngineAddress> Family::engine_behind(std::uint16_t port) const {
    std::uint8_t mark = page_->doorbells[port];
    if (mark == 0)
        return std::nullopt;
    const Slot &slot = page_->slots[mark - 1U];
    EngineAddress address;
    address.process = slot.process;
    std::uint64_t name = slot.name;
    std::memcpy(address.name.data(), &name, address.name.size());
    if (address.process <= 0)
        return std::nullopt;
    return address;
}

} // namespace synergy
