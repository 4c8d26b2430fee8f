"""The library as other machines and other C libraries load it, and as it checks itself.

Run as preloaded.py says.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess

import pytest

from preloaded import (BUILD, KEEPER, LIBRARY, PROGRAMS, REPOSITORY, SOURCES, Waiting, deaf_peer,
                       exported, intercepted, keepers_of, plain_environment,
                       preloaded_environment, run, wait_until)


def options_of_the_shim():
    """How this build compiles it, as far as all machines have it: what it is told by -D and -U."""
    entries = json.loads((BUILD / "compile_commands.json").read_text())
    (command,) = (entry["command"] for entry in entries
                  if entry["file"].endswith("preload/keeper_start.c"))
    told = [word for word in shlex.split(command)
            if re.match("-[DU]", word) and not word.startswith("-DSYNERGY_KEEPER=")]
    return [*told, f'-DSYNERGY_KEEPER="{KEEPER}"', f"-I{REPOSITORY / 'src'}", "-fvisibility=hidden",
            *sorted((REPOSITORY / "preload").glob("*.c"))]


@pytest.fixture(scope="session", name="checked")
def library_that_checks_itself(tmp_path_factory):
    """What to preload: the library built for the address sanitizer, and the sanitizer."""
    place = tmp_path_factory.mktemp("asan")
    asan = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True,
                          check=True).stdout.strip()
    if not os.path.isabs(asan):
        pytest.skip("no address sanitizer here")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-g", "-D_GNU_SOURCE", "-std=gnu11", "-fsanitize=address",
         # (Two children have the same stack one after the other, and leave by _exit().)
         "-fno-sanitize-address-use-after-scope", "-include", SOURCES / "plain_calls.h", *options_of_the_shim(), "-Wl,-z,nodelete,-z,now",
         "-o", place / "libsynergy.so"], check=True)
    return f"{place / 'libsynergy.so'} {os.path.realpath(asan)}"


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_arguments_that_nobody_would_write_to_a_library_that_checks_itself(seed, checked):
    environment = preloaded_environment(
        ASAN_OPTIONS="detect_leaks=0:verify_asan_link_order=0:handle_segv=0:disable_coredump=0")
    environment["LD_PRELOAD"] = checked
    for _ in range(3):  # on a busy machine what was sent to oneself may arrive a call later
        bare = run(PROGRAMS / "arguments", seed, 25000, environment=plain_environment())
        preloaded = run(PROGRAMS / "arguments", seed, 25000, environment=environment)
        assert preloaded.stderr == ""
        assert preloaded.returncode == bare.returncode == 0
        assert len(bare.stdout.splitlines()) == 25000
        if preloaded.stdout == bare.stdout:
            break
    assert preloaded.stdout == bare.stdout


@pytest.mark.parametrize("seed", [1, 2])
def test_sockets_that_become_something_else_by_a_library_that_checks_itself(seed, checked):
    environment = preloaded_environment(
        ASAN_OPTIONS="detect_leaks=0:verify_asan_link_order=0:disable_coredump=0")
    environment["LD_PRELOAD"] = checked
    bare = run(PROGRAMS / "states", seed, 2000, environment=plain_environment())
    preloaded = run(PROGRAMS / "states", seed, 2000, environment=environment)
    assert preloaded.stderr == ""
    assert preloaded.stdout == bare.stdout


MULTILIB = ["cc", "-m32", "-D_GNU_SOURCE", "-std=gnu11", "-O1"]


@pytest.fixture(scope="session", name="library_32")
def library_of_32_bits(tmp_path_factory):
    place = tmp_path_factory.mktemp("m32")
    probe = subprocess.run([*MULTILIB, "-xc", "-", "-o", place / "probe"], text=True, check=False,
                           input="#include <stdio.h>\nint main(void) { return 0; }\n", capture_output=True)
    if probe.returncode != 0 or run(place / "probe", environment=plain_environment()).returncode != 0:
        pytest.skip("no compiler and libc for 32 bits: apt-get install gcc-multilib")
    library = place / "libsynergy.so"
    subprocess.run(
        [*MULTILIB, "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-nonnull-compare", *options_of_the_shim(),
         f"-Wl,--version-script={REPOSITORY / 'preload/libsynergy.map'}",
         "-Wl,-z,initfirst,-z,nodelete,-z,now", "-o", library], check=True)
    return library


def compiled_32(name, place, *options):
    program = place / f"{name}-32"
    subprocess.run([*MULTILIB, "-Wno-error", f"-I{REPOSITORY / 'preload'}", *options, SOURCES / f"{name}.c",
                    "-lpthread", "-o", program], check=True)
    return program


@pytest.mark.parametrize("how", ["select", "pselect", "ppoll"])
def test_a_32_bit_program_with_64_bit_time_waits_by_other_names(how, library_32, deaf_peer, tmp_path):
    """An inherited listener is met at the first call that waits for it; the keeper has 64 bits."""
    program = compiled_32("time64", tmp_path, "-D_TIME_BITS=64", "-D_FILE_OFFSET_BITS=64")
    names = subprocess.run(["nm", "-D", program], capture_output=True, text=True, check=True).stdout
    assert f"__{how}64" in names
    environment = preloaded_environment(deaf_peer.text())
    environment["LD_PRELOAD"] = str(library_32)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = subprocess.Popen([program, how, str(listener.fileno())], env=environment, text=True,
                                  pass_fds=[listener.fileno()], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        assert server.stdout.readline() == "0\n"
        assert wait_until(lambda: keepers_of(server.pid), 2)
        server.communicate()
        assert server.returncode == 0


LISTENS_AND_SELECTS = """
#include <netinet/in.h>
#include <sys/select.h>
int main(void) {
    struct sockaddr_in any = {.sin_family = AF_INET};
    struct timeval moment = {.tv_usec = 1000};
    socklen_t length = sizeof any;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    fd_set reading;
    FD_ZERO(&reading);
    FD_SET(fd, &reading);
    getsockname(fd, (struct sockaddr *)&any, &length);
    any.sin_port = htons(4444);
    return bind(fd, (struct sockaddr *)&any, sizeof any) || listen(fd, 1) ||
           select(fd + 1, &reading, 0, 0, &moment);
}
"""


def test_a_32_bit_program_is_told_that_its_port_is_none_of_those_that_are_set(library_32, tmp_path):
    source, program = tmp_path / "selects.c", tmp_path / "selects"
    source.write_text(LISTENS_AND_SELECTS)
    subprocess.run([*MULTILIB, "-D_TIME_BITS=64", "-D_FILE_OFFSET_BITS=64", source, "-o", program], check=True)
    environment = preloaded_environment(SYNERGY_PORTS="4445", SYNERGY_LOG="warn")
    environment["LD_PRELOAD"] = str(library_32)
    result = run("unshare", "-n", program, environment=environment)
    assert result.returncode == 0
    assert "port 4444 is not among" in result.stderr


@pytest.mark.parametrize("how", ["recvmsg", "recvmmsg"])
def test_a_32_bit_program_with_64_bit_time_receives_by_other_names(how, library_32, deaf_peer, tmp_path):
    program = compiled_32("time64", tmp_path, "-D_TIME_BITS=64", "-D_FILE_OFFSET_BITS=64")
    environment = preloaded_environment(deaf_peer.text())
    environment["LD_PRELOAD"] = str(library_32)
    with socket.socket(type=socket.SOCK_DGRAM) as server_socket:
        server_socket.bind(("127.0.0.1", 0))
        server_socket.set_inheritable(True)
        server = subprocess.Popen([program, how, str(server_socket.fileno())], env=environment, text=True,
                                  pass_fds=[server_socket.fileno()], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        assert server.stdout.readline() == "-1\n"
        assert wait_until(lambda: keepers_of(server.pid), 2)
        server.communicate()
        assert server.returncode == 0


def test_a_32_bit_program_sees_of_every_call_what_it_sees_without(library_32, tmp_path):
    compiled, arguments = compiled_32("arguments", tmp_path, "-fno-builtin-malloc"), (1, 5000)
    bare = run(compiled, *arguments, environment=plain_environment())
    assert bare.returncode == 0
    environment = preloaded_environment()
    environment["LD_PRELOAD"] = str(library_32)
    preloaded = run(compiled, *arguments, environment=environment)
    assert preloaded.stdout.splitlines() == bare.stdout.splitlines()
    assert preloaded.returncode == 0


def test_a_program_of_another_libc_that_inherits_the_library_is_served_too(deaf_peer, tmp_path):
    if shutil.which("musl-gcc") is None:
        pytest.skip("musl-gcc: apt-get install musl-tools")
    program = tmp_path / "foreign"
    subprocess.run(["musl-gcc", "-O1", SOURCES / "foreign.c", "-o", program], check=True)
    dynamic = subprocess.run(["readelf", "-l", program], capture_output=True, text=True, check=True)
    assert "ld-musl" in dynamic.stdout
    # It begins, without settings and with them.
    bare = run(program, environment=plain_environment(LD_PRELOAD=str(LIBRARY)))
    assert (bare.returncode, bare.stderr) == (0, "") and int(bare.stdout)
    with Waiting(environment=preloaded_environment(deaf_peer.text()), program=program) as server:
        assert deaf_peer.ask(server.port) == f"127.0.0.1 {deaf_peer.port}"
        assert server.end() == (0, "")


def test_the_32_bit_library_knows_the_second_names_too(library_32):
    calls, second = intercepted()
    assert "__recvmmsg64" in second
    assert exported(library_32) == calls | second | {"synergy@@SYNERGY_0", "synergy_to@@SYNERGY_0"}
