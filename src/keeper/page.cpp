#include "keeper/page.h"

#include "server/server_socket.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <system_error>
#include <unistd.h>

namespace synergy {

namespace {

[[noreturn]] void fail(const char *what) {
    throw std::system_error(errno, std::generic_category(), what);
}

using Bits = std::array<std::uint8_t, sizeof synergy_page::ports[0]>; ///< one for each port

Bits bits_of(const std::vector<PortRange> &ranges) {
    Bits bits{};
    for (const PortRange &range : ranges) {
        const unsigned first = range.first / 8;
        const unsigned last = range.last / 8;
        const unsigned from = 0xffU << range.first % 8;
        const unsigned until = 0xffU >> (7 - range.last % 8);
        if (first == last) {
            bits.at(first) |= static_cast<std::uint8_t>(from & until);
            continue;
        }
        bits.at(first) |= static_cast<std::uint8_t>(from);
        std::fill(bits.begin() + first + 1, bits.begin() + last, 0xff);
        bits.at(last) |= static_cast<std::uint8_t>(until);
    }
    return bits;
}

/// Has the kernel say in this word, which is to hold the thread's number, when the thread has
/// ended, in whatever way. False where it can't. (One word for each thread, the last one.)
bool be_missed(std::uint32_t &word) {
    static robust_list entry;
    static robust_list_head list;
    entry.next = &list.list;
    list.list.next = &entry;
    // Where the number stands, seen from its entry: nothing says that the two are near each other.
    list.futex_offset = reinterpret_cast<char *>(&word) - reinterpret_cast<char *>(&entry);
    return syscall(SYS_set_robust_list, &list, sizeof list) == 0;
}

synergy_bell_mark random_mark() {
    std::array<std::uint8_t, sizeof(synergy_bell_mark) / 2> random{};
    if (getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size()))
        fail("getrandom");
    synergy_bell_mark mark{};
    auto *digit = mark.digits;
    for (const std::uint8_t byte : random)
        for (const int half : {byte >> 4, byte & 15})
            *digit++ = "0123456789abcdef"[half];
    return mark;
}

} // namespace

Page::Page() : memory_(memfd_create("synergy", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
    // Its size is fixed, since who shares it could cut it off under our feet.
    if (!memory_ || ftruncate(memory_.fd(), sizeof(synergy_page)) != 0 ||
        fcntl(memory_.fd(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        fail(errno == EFBIG
                 ? "no page can be shared, by the limit on the size of files (RLIMIT_FSIZE, "
                   "LimitFSIZE=)"
                 : "memfd");
    void *memory =
        mmap(nullptr, sizeof(synergy_page), PROT_READ | PROT_WRITE, MAP_SHARED, memory_.fd(), 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    page_ = static_cast<synergy_page *>(memory);
    page_->version = SYNERGY_WIRE_VERSION;
    page_->user = geteuid();
    if (be_missed(page_->holder))
        __atomic_store_n(&page_->holder, static_cast<std::uint32_t>(gettid()), __ATOMIC_RELEASE);
    if (getrandom(page_->secret.bytes, sizeof page_->secret.bytes, 0) != sizeof page_->secret.bytes)
        fail("getrandom");
    page_->bells = page_->bells_before = random_mark();
    if (const Socket any = Socket::open(AF_UNIX, SOCK_DGRAM); any)
        page_->network = network_of(any.fd());
}

Page::~Page() {
    munmap(page_, sizeof *page_);
}

void Page::stand_by() {
    if (be_missed(page_->standby))
        __atomic_store_n(&page_->standby, static_cast<std::uint32_t>(gettid()), __ATOMIC_RELEASE);
}

bool Page::take_over() {
    // Its bells are gone with it.
    __atomic_store_n(&page_->ringing, 0, __ATOMIC_RELEASE);
    auto holder = SYNERGY_HOLDER_DIED;
    const bool is_taken =
        be_missed(page_->holder) && __atomic_load_n(&page_->over, __ATOMIC_ACQUIRE) == 0 &&
        __atomic_compare_exchange_n(&page_->holder, &holder, static_cast<std::uint32_t>(gettid()),
                                    false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    __atomic_store_n(&page_->standby, 0, __ATOMIC_RELEASE);
    return is_taken;
}

void Page::show_ports(const Settings &settings) {
    static_assert(all_transports.size() == SYNERGY_TRANSPORTS &&
                  all_transports[SYNERGY_TCP] == Transport::tcp &&
                  all_transports[SYNERGY_UDP] == Transport::udp &&
                  all_transports[SYNERGY_SCTP] == Transport::sctp);
    for (std::size_t i = 0; i < all_transports.size(); i++) {
        const Bits bits = bits_of(settings.concerned_ports(all_transports[i]));
        // (Nobody else writes there.)
        if (std::memcmp(page_->ports[i], bits.data(), bits.size()) == 0)
            continue;
        for (std::size_t byte = 0; byte < bits.size(); byte++)
            if (__atomic_load_n(&page_->ports[i][byte], __ATOMIC_RELAXED) != bits.at(byte))
                __atomic_store_n(&page_->ports[i][byte], bits.at(byte), __ATOMIC_RELEASE);
    }
    __atomic_store_n(&page_->any_udp_port, settings.has_peers_on_any_port(Transport::udp) ? 1 : 0,
                     __ATOMIC_RELEASE);
}

void Page::show_time(Time now) {
    const auto whole = std::chrono::floor<std::chrono::seconds>(now.time_since_epoch());
    __atomic_store_n(&page_->now, static_cast<std::uint32_t>(whole.count()), __ATOMIC_RELAXED);
}

} // namespace synergy
