#include "server/server_descriptors.h"

#include "harness.h"

#include <doctest/doctest.h>

#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

using namespace synergy;

namespace {

Socket any_socket() {
    return Socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
}

} // namespace

TEST_CASE("server descriptors: a socket has an inode, other files have none") {
    Socket one = any_socket(), two = any_socket();
    CHECK(socket_inode(one.fd()) != 0);
    CHECK(socket_inode(one.fd()) != socket_inode(two.fd()));
    Socket same(dup(one.fd()));
    CHECK(socket_inode(same.fd()) == socket_inode(one.fd()));
    Socket file(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    CHECK(socket_inode(file.fd()) == 0);
    CHECK(socket_inode(-1) == 0);
    CHECK(socket_inode(9999) == 0);
}

TEST_CASE("server descriptors: found where it was, where it went, or not at all") {
    ServerDescriptors descriptors;
    REQUIRE(descriptors.readable());
    Socket socket = any_socket();
    std::uint64_t inode = socket_inode(socket.fd());
    int number = socket.fd();
    CHECK(descriptors.find(inode, number) == number);
    CHECK(descriptors.find(inode, -1) == number);
    CHECK(descriptors.find(inode, number, number) == -1);

    Socket copy(fcntl(number, F_DUPFD_CLOEXEC, number + 20));
    CHECK(descriptors.find(inode, number) == number);
    CHECK(descriptors.find(inode, number, number) == copy.fd());
    socket.reset();
    CHECK(descriptors.find(inode, number) == copy.fd());
    // Another socket under the old number is not it.
    Socket other = any_socket();
    REQUIRE(other.fd() == number);
    CHECK(descriptors.find(inode, number) == copy.fd());
    copy.reset();
    CHECK(descriptors.find(inode, number) == -1);
}

TEST_CASE("server descriptors: looking leaves none behind") {
    ServerDescriptors descriptors;
    Socket socket = any_socket();
    auto before = harness::open_descriptors();
    for (int i = 0; i < 100; i++)
        CHECK(descriptors.find(socket_inode(socket.fd()), -1, socket.fd()) == -1);
    CHECK(harness::open_descriptors() == before);
}

TEST_CASE("server descriptors: a thread with its own table sees the process's") {
    int found = -2, found_later = -2;
    Socket socket = any_socket();
    std::uint64_t inode = socket_inode(socket.fd());
    int number = socket.fd();
    std::thread([&] {
        if (unshare(CLONE_FILES) != 0)
            return;
        close(number); // in this thread's table alone
        ServerDescriptors descriptors;
        found = descriptors.find(inode, number);
        Socket own = any_socket();
        found_later = descriptors.find(socket_inode(own.fd()), own.fd());
    }).join();
    CHECK(found == number);
    CHECK(found_later == -1);
}
