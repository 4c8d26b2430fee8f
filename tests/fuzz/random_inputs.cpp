// In place of libFuzzer's main(), for compilers that have none: random inputs for so many seconds.
// random_inputs SECONDS [SEED]
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <unistd.h>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size);

int main(int count, char **words) {
    using Clock = std::chrono::steady_clock;
    // Root's keeper would confine this process.
    constexpr uid_t nobody = 65534;
    if (geteuid() == 0 && (setgid(nobody) != 0 || setuid(nobody) != 0))
        return 1;
    const unsigned seed = count > 2 ? static_cast<unsigned>(std::atoi(words[2])) : 1;
    const auto end = Clock::now() + std::chrono::seconds(count > 1 ? std::atoi(words[1]) : 5);
    std::mt19937 random(seed);
    unsigned long inputs = 0;
    for (; Clock::now() < end; inputs++) {
        constexpr unsigned size_max = 1024;
        std::vector<std::uint8_t> input(random() % size_max);
        for (std::uint8_t &byte : input)
            byte = static_cast<std::uint8_t>(random());
        LLVMFuzzerTestOneInput(input.data(), input.size());
    }
    std::printf("%lu inputs\n", inputs);
    return inputs == 0 ? 1 : 0;
}
