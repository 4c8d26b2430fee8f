#include "server/server_descriptors.h"

#include "harness.h"
#include "server/server_socket.h"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <unistd.h>

using namespace synergy;

namespace {

Socket any_socket() {
    Socket socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    REQUIRE(socket);
    return socket;
}

} // namespace

TEST_CASE("server descriptors: found where it was, where it went, or not at all") {
    Socket socket = any_socket();
    const std::uint64_t inode = describe(socket.fd())->inode;
    const int number = socket.fd();
    CHECK(find_descriptor(getpid(), inode, number) == number);
    CHECK(find_descriptor(getpid(), inode, -1) == number);

    Socket copy(fcntl(number, F_DUPFD_CLOEXEC, number + 20));
    CHECK(find_descriptor(getpid(), inode, number) == number);
    socket.reset();
    CHECK(find_descriptor(getpid(), inode, number) == copy.fd());
    // Another socket under the old number is not it.
    Socket other = any_socket();
    REQUIRE(other.fd() == number);
    CHECK(find_descriptor(getpid(), inode, number) == copy.fd());
    copy.reset();
    CHECK(find_descriptor(getpid(), inode, number) == -1);
}

TEST_CASE("server descriptors: looking leaves none behind") {
    Socket socket = any_socket();
    const std::uint64_t inode = describe(socket.fd())->inode;
    auto before = harness::open_descriptors();
    for (int i = 0; i < 100; i++) {
        CHECK(find_descriptor(getpid(), inode, -1) == socket.fd());
        CHECK(find_descriptor(getpid(), 1, -1) == -1);
    }
    CHECK(harness::open_descriptors() == before);
}

TEST_CASE("server descriptors: of a process that is not there nothing can be told") {
    CHECK(find_descriptor(0x3fffffff, 1, 3) == std::nullopt);
}
