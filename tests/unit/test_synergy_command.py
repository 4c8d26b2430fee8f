"""The `synergy` command: what it refuses and says, and what it makes of the environment.

Run by /usr/bin/python3 -m pytest; SYNERGY_BUILD names the build directory (default: build).
"""

import json
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("SYNERGY_BUILD", REPOSITORY / "build")).resolve()
SYNERGY = BUILD / "src" / "synergy"
LISTENDEMO = BUILD / "src" / "listendemo"
KEEPER = BUILD / "src" / "synergy-keeper"
LIBRARY = BUILD / "preload" / "libsynergy.so"

PEER = "[2001:db8::5]:5555"
USAGE = "synergy run [--peer P]... [--hops N] [--config F] -- COMMAND..."
NOBODY = 65534


@pytest.fixture
def synergy(tmp_path):
    """Runs the command in an empty home, with only the variables that are given."""

    def run(*arguments, program=SYNERGY, cwd=tmp_path, **variables):
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": "C"}
        environment.update(variables)
        return subprocess.run(
            [str(program), *map(str, arguments)],
            env=environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


def kernel_has_sctp():
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
        return True
    except OSError:
        return False


@pytest.mark.skipif(kernel_has_sctp(), reason="this kernel has SCTP")
def test_listendemo_says_that_the_kernel_has_no_sctp(synergy):
    result = synergy("sctp", "::", 4444, "2001:db8::5", 5555, 2, program=LISTENDEMO)
    assert result.returncode == 1
    assert result.stderr == ("listendemo: this kernel has no SCTP; `modprobe sctp` loads it where "
                             "it is a module\n")


def refused(result, message):
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == message
    return True


def program_of(path, content, mode=0o755):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


@pytest.fixture
def static_program(tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path / "static"
    subprocess.run(
        [compiler, "-static", "-nostdlib", "-x", "c", "-o", program, "-"],
        input=b"void _start(void) { for (;;) ; }",
        check=True,
    )
    return program


def test_version(synergy):
    result = synergy("--version")
    assert result.returncode == 0
    assert re.fullmatch(r"synergy \d+\.\d+\.\d+\n", result.stdout)


def test_help(synergy):
    result = synergy("--help")
    assert result.returncode == 0
    assert "run " in result.stdout
    assert all(len(line) <= 112 for line in result.stdout.splitlines())
    result = synergy("run", "--help")
    assert result.returncode == 0
    assert f"Usage: {USAGE}\n" in result.stdout
    for option in "--peer P ", "--hops N ", "--config F ":
        assert option in result.stdout
    assert "Usage: synergy check [--json] [PEER] [-- COMMAND...]\n" in synergy("check", "--help").stdout
    assert all(len(line) <= 100 for line in result.stdout.splitlines())


def test_usage_errors(synergy):
    assert refused(synergy(), "synergy: nothing to do: see synergy --help\n")
    assert refused(
        synergy("walk"),
        "synergy: 'walk': expected a command first: run, probe, check, status, test\n"
    )
    assert refused(synergy("run", "--peer", PEER), f"synergy: no command: {USAGE}\n")
    assert refused(synergy("run", "--peer", PEER, "--"), f"synergy: no command: {USAGE}\n")
    assert refused(synergy("run", "--pear", PEER), "synergy: no such option: --pear\n")
    assert refused(synergy("run", "--peer"), "synergy: --peer: expected one value\n")


@pytest.mark.parametrize("words, line", (
    (("--peer", PEER, "run", "true"),
     "'--peer': expected the command first: synergy run"),
    (("help",), "'help': expected a command first: run, probe, check, status, test"),
    (("check", PEER, "ncat", "-l", "4444"), "'ncat': expected `--` before COMMAND"),
    (("check", "true", "-l", "4444"), "'true': expected `--` before COMMAND"),
    (("check", PEER, "--json", "true", "-x"), "'true': expected `--` before COMMAND"),
    (("check", "--peer", PEER), "'--peer': expected another option: see synergy check --help"),
    (("probe", "2001:db8::5", "5555"), "'5555': expected nothing more: see synergy probe --help"),
    (("status", "now"), "'now': expected nothing more: see synergy status --help"),
    (("probe", "127.0.0.1", "--", "5555"), "'5555': expected nothing more: see synergy probe --help"),
    (("status", "--", "now"), "'now': expected nothing more: see synergy status --help"),
    (("test", "192.0.2.1", "--", "true"), "'true': expected nothing more: see synergy test --help"),
    (("run", "--", "--peer", PEER, "true"),
     "'--peer': expected COMMAND after `--`, and options before it")))
def test_words_in_another_order(synergy, words, line):
    assert refused(synergy(*words), f"synergy: {line}\n")


A_HOST = "an address or host name, as [2001:db8::5]:5555"
ONE_HOST = "the address of one host, neither wildcard nor multicast"


@pytest.mark.parametrize("words, line", (
    (("run", "--peer", "", "--", "true"), "--peer: '': expected a peer, as [2001:db8::5]:5555"),
    (("run", "--peer", PEER, "--hops", "", "--", "true"),
     "--hops: '': expected a hop limit from 1 to 254, or auto"),
    (("run", "--peer", PEER, "--config", "", "--", "true"), "--config: '': expected a file"),
    (("run", "--hops", "3", "--hops", "4", "--", "true"), "--hops: expected one value"),
    (("run", "--peer", PEER, "--", ""), f"no command: {USAGE}"),
    (("check", ""), "PEER: '': expected a peer, as [2001:db8::5]:5555"),
    (("probe", ""), f"PEER: '': expected {A_HOST}"),
    (("probe", "::1", "--from", ""), "--from: '': expected an address of this host, as 2001:db8::11"),
    (("probe", "--from"), "--from: expected one value"),
    (("probe", "10.1"), f"PEER: '10.1': expected {A_HOST}: four decimal numbers, as 198.51.100.5"),
    (("probe", "2001:db8::5/64"), f"PEER: '2001:db8::5/64': expected {A_HOST}: the address of one "
     "host: a hole is for one address, not a network"),
    (("probe", "ff02::1"), f"PEER: 'ff02::1': expected {A_HOST}: {ONE_HOST}"),
    (("probe", "::"), f"PEER: '::': expected {A_HOST}: {ONE_HOST}"),
    (("probe", "[2001:db8::5:5555"), f"PEER: '[2001:db8::5:5555': expected {A_HOST}: ']' after the "
     "IPv6 address"),
    (("test", "2001:db8::5]:5555"), f"PEER: '2001:db8::5]:5555': expected {A_HOST}: an IPv6 address in "
     "brackets, as [2001:db8::5]:5555"),
    (("test", "192.0.2.1,192.0.2.2"), f"PEER: '192.0.2.1,192.0.2.2': expected {A_HOST}: one alone"),
    (("test", f"{PEER} 192.0.2.2:5"), f"PEER: '{PEER} 192.0.2.2:5': expected {A_HOST}: one alone"),
    (("test", "192.0.2.1", "--idle", "0"),
     "--idle: '0': expected whole seconds from 1 to 3600"),
    (("test", "192.0.2.1", "--idle", "10,x"),
     "--idle: 'x': expected whole seconds from 1 to 3600"),
    (("test", "192.0.2.1", "--idle", "1,2,3,4,5"), "--idle: expected 1 to 4 values")))
def test_values_that_would_be_passed_over(synergy, words, line):
    assert refused(synergy(*words), f"synergy: {line}\n")


@pytest.mark.parametrize("place, value, expected", (
    (0, "TCP", "tcp, udp or sctp"), (1, "localhost", "an IPv6 or IPv4 address, as 2001:db8::5 or "
                                     "198.51.100.5"),
    (1, "[::]", "an IPv6 or IPv4 address, as 2001:db8::5 or 198.51.100.5"),
    (1, "::1", "an address that the peer can reach"),
    (1, "127.0.0.2", "an address that the peer can reach"),
    (1, "192.0.2.1", "an address of RADDR's family"),
    (1, "fe80::1", "after a link-local address '%' and an interface, as fe80::5%eth0"),
    (1, "::%none", "after a link-local address '%' and an interface, as fe80::5%eth0"),
    (2, "0", "a port from 1 to 65535"), (2, "65536", "a port from 1 to 65535"),
    (2, "0x15b", "a port from 1 to 65535"), (2, "+4444", "a port from 1 to 65535"),
    (3, "", "an IPv6 or IPv4 address, as 2001:db8::5 or 198.51.100.5"),
    (4, "5555-5560", "a port from 1 to 65535"), (5, "0", "a hop limit from 1 to 254, or auto"),
    (5, "0x3", "a hop limit from 1 to 254, or auto"), (5, "-1", "a hop limit from 1 to 254, or auto"),
    (5, "AUTO", "a hop limit from 1 to 254, or auto")))
def test_listendemo_is_told_what_it_can_not_use(synergy, place, value, expected):
    words = ["tcp", "::", "4444", "2001:db8::5", "5555", "3"]
    words[place] = value
    name = ("TRANSPORT", "LADDR", "LPORT", "RADDR", "RPORT", "HOPLIMIT")[place]
    assert refused(synergy(*words, program=LISTENDEMO),
                   f"listendemo: {name}: '{value}': expected {expected}\n")


def test_listendemo_and_words_that_are_missing_or_too_many(synergy):
    words = ["tcp", "::", "4444", "2001:db8::5", "5555", "3"]
    assert refused(synergy(*words[:5], program=LISTENDEMO), "listendemo: HOPLIMIT is required\n")
    assert refused(synergy(*words, "4", program=LISTENDEMO),
                   "listendemo: '4': expected nothing more: see listendemo --help\n")


def test_option_behind_the_command(synergy):
    result = synergy("run", "true", "--peer", PEER)
    assert result.stderr.endswith("synergy.toml; --peer belongs before COMMAND\n")


def test_the_command_gets_library_and_settings(synergy):
    result = synergy(
        "run", "--peer", PEER, "--peer=198.51.100.5:1-2", "--hops", "4", "--",
        "sh", "-c", 'echo "$LD_PRELOAD|$SYNERGY_PEERS|$SYNERGY_HOPS|$SYNERGY_CONFIG"',
    )  # fmt: skip
    assert result.stdout == f"{LIBRARY}|{PEER} 198.51.100.5:1-2|4|\n"
    assert (result.returncode, result.stderr) == (0, "")


def test_the_library_is_loaded(synergy):
    result = synergy("run", "--peer", PEER, "--", "cat", "/proc/self/maps")
    assert result.returncode == 0
    assert str(LIBRARY) in result.stdout


def test_the_library_stands_in_front_of_others(synergy, tmp_path):
    other = tmp_path / "libother.so"
    shutil.copy(LIBRARY, other)
    for others, expected in (str(other), f"{LIBRARY}:{other}\n"), ("", f"{LIBRARY}\n"):
        result = synergy("run", "--peer", PEER, "--", "printenv", "LD_PRELOAD", LD_PRELOAD=others)
        assert result.stdout == expected


def test_options_replace_variables(synergy):
    result = synergy(
        "run", "--peer", PEER, "--hops", "auto", "--", "printenv", "SYNERGY_PEERS", "SYNERGY_HOPS",
        SYNERGY_PEERS="host:bad", SYNERGY_HOPS="999",
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, f"{PEER}\nauto\n")


def test_variables_are_enough(synergy):
    result = synergy("run", "--", "printenv", "SYNERGY_PEERS", SYNERGY_PEERS=PEER)
    assert (result.returncode, result.stdout) == (0, f"{PEER}\n")


def test_the_command_keeps_its_arguments_and_exit_code(synergy):
    script = 'echo "$@"; exit 9'
    result = synergy("run", "--peer", PEER, "--", "sh", "-c", script, "sh", "--", "--peer", "")
    assert (result.returncode, result.stdout) == (9, "-- --peer \n")


def test_dashes_before_the_command_can_be_left_out(synergy):
    script = 'echo "$@"'
    result = synergy("run", "--peer", PEER, "sh", "-c", script, "sh", "--hops", "--", "--", "x")
    assert (result.returncode, result.stdout) == (0, "--hops -- -- x\n")


def test_settings_that_are_wrong(synergy):
    port = "expected a port from 1 to 65535, or a range as 5000-5010\n"
    hops = "expected a hop limit from 1 to 254, or auto\n"
    assert refused(
        synergy("run", "--peer", PEER, "--peer", "host:x", "--hops", "255", "--", "echo", "x"),
        f"synergy: --peer: 'host:x': {port}synergy: --hops: '255': {hops}",
    )
    assert refused(
        synergy("run", "--", "echo", "started", SYNERGY_PEERS="host:x", SYNERGY_HOPS="0"),
        f"synergy: SYNERGY_PEERS: 'host:x': {port}synergy: SYNERGY_HOPS: '0': {hops}",
    )
    assert refused(
        synergy("run", "--peer", PEER, "--", "echo", "started", SYNERGY_LOG="loud"),
        "synergy: SYNERGY_LOG: 'loud': expected debug, info, warn, error or off\n",
    )


def test_no_peers(synergy, tmp_path):
    result = synergy("run", "--", "echo", "started")
    user = tmp_path / ".config/synergy/synergy.toml"
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(
        rf"synergy: no peers: looked in SYNERGY_PEERS \(or --peer\), {re.escape(str(user))} "
        r"and /\S*/synergy/synergy.toml\n",
        result.stderr,
    )
    config = program_of(tmp_path / "empty.toml", "hops = 3\n")
    assert refused(
        synergy("run", "--config", config, "--", "echo", "started"),
        f"synergy: no peers: looked in SYNERGY_PEERS (or --peer) and {config}\n",
    )


@pytest.mark.parametrize("variables, hint", (
    (dict(HOME="here"), "HOME is passed over: 'here' is no absolute path"),
    (dict(XDG_CONFIG_HOME="./x"), "XDG_CONFIG_HOME is passed over: './x' is no absolute path")))
def test_home_that_is_passed_over(synergy, variables, hint):
    assert synergy("run", "--", "true", **variables).stderr.endswith(f"synergy.toml; {hint}\n")
    assert f"synergy.toml; {hint}\n" in synergy("check", **variables).stdout


def test_config_file(synergy, tmp_path):
    config = program_of(tmp_path / "mine.toml", f'peers = ["{PEER}"]\n')
    # The command may change its directory before the library reads the file.
    for result in (
        synergy("run", "--config", "mine.toml", "--", "printenv", "SYNERGY_CONFIG"),
        synergy("run", "--", "printenv", "SYNERGY_CONFIG", SYNERGY_CONFIG="mine.toml"),
        synergy("run", "--config", config, "--", "printenv", "SYNERGY_CONFIG", SYNERGY_CONFIG="x"),
    ):
        assert (result.returncode, result.stdout) == (0, f"{config}\n")

    config.write_text(f'peers = ["{PEER}"]\n\nhops = 300\n')
    assert refused(
        synergy("run", "--config", config, "--", "echo", "started"),
        f"synergy: {config}:3:8: '300': expected a hop limit from 1 to 254, or auto\n",
    )
    missing = tmp_path / "missing.toml"
    expected = f"'{missing}': expected a file that can be read: No such file or directory\n"
    assert refused(
        synergy("run", "--config", missing, "--", "echo", "started"),
        f"synergy: --config: {expected}",
    )
    assert refused(
        synergy("run", "--", "echo", "started", SYNERGY_CONFIG=str(missing)),
        f"synergy: SYNERGY_CONFIG: {expected}",
    )


def test_user_config_file(synergy, tmp_path):
    config = tmp_path / ".config/synergy/synergy.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'peers = ["{PEER}"]\n')
    assert synergy("run", "--", "true").returncode == 0


def test_the_installed_example(synergy, tmp_path):
    example = (REPOSITORY / "config" / "synergy.toml").read_text()
    config = program_of(tmp_path / "example.toml", example)
    result = synergy("run", "--config", config, "--", "true")
    assert "no peers" in result.stderr  # everything is commented out
    # Settings are commented out by a bare '#', prose begins with '# '.
    config.write_text(re.sub(r"(?m)^#(?=[\w\[])", "", example))
    result = synergy("run", "--config", config, "--", "true")
    assert (result.returncode, result.stderr) == (0, "")
    for setting in "peers hops hops_min hops_max local refresh log log_file port protocol".split():
        assert re.search(rf"(?m)^{setting} = ", config.read_text())


def test_commands_that_cannot_be_started(synergy, tmp_path):
    result = synergy("run", "--peer", PEER, "--", "no-such-command")
    assert result.returncode == 127
    assert result.stderr == "synergy: no-such-command: No such file or directory\n"
    plain = program_of(tmp_path / "plain", "", 0o644)
    result = synergy("run", "--peer", PEER, "--", plain)
    assert result.returncode == 126
    assert result.stderr == f"synergy: {plain}: Permission denied\n"
    result = synergy("run", "--peer", PEER, "--", tmp_path)
    assert result.returncode == 126
    lost = program_of(tmp_path / "lost", "#!/no/such/interpreter\n")
    assert synergy("run", "--peer", PEER, "--", lost).returncode == 127


BEHIND = ". If it only starts the server, `synergy run` belongs behind it"
STATIC = f"is statically linked: nothing can be preloaded into it{BEHIND}"
GO = ("is written in Go, whose programs make their system calls themselves: what is preloaded does "
      f"not see them{BEHIND}")


def passed_on(starter):
    return (f"{starter} gives what it starts another environment, without LD_PRELOAD: put `synergy "
            f"run` behind it, as in `{starter} ... synergy run --peer P -- COMMAND`")


@pytest.mark.parametrize("words, starter", (
    ("sudo -u nobody true", "sudo"), ("/usr/bin/ssh host true", "ssh"), ("env -i A=1 true", "env"),
    ("env A=1 - true", "env"), ("su - nobody -c true", "su"), ("docker run image true", "docker"),
    ("systemd-run --user true", "systemd-run"), ("nice -n 5 sudo true", "sudo"),
    ("env A=1 sudo true", "sudo"), ("timeout -s KILL 5 sudo true", "sudo"),
    ("nohup env -i true", "env"), ("setpriv --reset-env true", "setpriv"),
    ("setpriv --reuid nobody -- ssh host true", "ssh"),
    ("ip netns exec there nice /usr/bin/sudo true", "sudo")))
def test_starters_that_leave_the_library_out(synergy, words, starter):
    result = synergy("run", "--peer", PEER, "--", *words.split())
    assert refused(result, f"synergy: {passed_on(starter)}\n")


@pytest.fixture(name="sudo")
def real_sudo(synergy):
    """Behind which a command of this user's runs without being asked for a password."""
    if shutil.which("sudo") is None:
        pytest.skip("sudo missing: apt-get install sudo")
    if subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("sudo asks this user for a password")
    return lambda *words, **variables: synergy("-n", *words, program=shutil.which("sudo"), **variables)


def test_behind_sudo(sudo, synergy):
    """Which hands nothing of ours on that is set before it; what stands behind it counts."""
    given = sudo("env", LD_PRELOAD=str(LIBRARY), SYNERGY_PEERS=PEER).stdout
    assert "LD_PRELOAD=" not in given and "SYNERGY_" not in given and "SUDO_COMMAND=" in given
    for words in ((SYNERGY, "run", "--", "true"), (SYNERGY, "check")):
        lost = sudo(*words, SYNERGY_PEERS=PEER)
        assert re.search(r"(?m)no peers.* sudo leaves SYNERGY_ variables out: set them behind it$",
                         lost.stdout + lost.stderr), lost
        assert lost.returncode != 0
    right = sudo("env", f"SYNERGY_PEERS={PEER}", SYNERGY, "run", "--", "printenv", "LD_PRELOAD",
                 "SYNERGY_PEERS")
    assert (right.returncode, right.stdout) == (0, f"{LIBRARY}\n{PEER}\n")
    right = sudo(SYNERGY, "run", "--peer", PEER, "--", "printenv", "LD_PRELOAD")
    assert (right.returncode, right.stdout) == (0, f"{LIBRARY}\n")
    # Who has done as he was told is not told again.
    again = synergy("run", "--peer", PEER, "--", "sudo", "-n", SYNERGY, "run", "--peer", PEER, "--",
                    "printenv", "LD_PRELOAD")
    assert (again.returncode, again.stdout) == (0, f"{LIBRARY}\n")


@pytest.mark.parametrize("words", ("env printenv LD_PRELOAD", "env -u A B=1 printenv LD_PRELOAD",
                                   "env -- printenv LD_PRELOAD", "env printenv LD_PRELOAD -i",
                                   "nice -n 1 printenv LD_PRELOAD",
                                   "timeout 5 env printenv LD_PRELOAD sudo",
                                   "setpriv --no-new-privs printenv LD_PRELOAD"))
def test_starters_that_pass_the_library_on(synergy, words):
    result = synergy("run", "--peer", PEER, "--", *words.split())
    assert f"{LIBRARY}\n" in result.stdout


def test_statically_linked(synergy, static_program, tmp_path):
    message = f"synergy: {static_program} {STATIC}\n"
    assert refused(synergy("run", "--peer", PEER, "--", static_program), message)
    path = f"/nowhere:{tmp_path}:{os.environ['PATH']}"
    assert refused(synergy("run", "--peer", PEER, "--", "static", PATH=path), message)
    # An empty entry is the current directory.
    assert refused(
        synergy("run", "--peer", PEER, "--", "static", PATH=f":{os.environ['PATH']}"),
        message.replace(str(static_program), "./static"),
    )
    for line in f"#!{static_program}", f"#! {static_program} -x", f"#!\t{static_program}\t":
        script = program_of(tmp_path / "script", line + "\n")
        assert refused(synergy("run", "--peer", PEER, "--", script), message)


@pytest.fixture(name="compiler")
def c_compiler():
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    return shutil.which("cc")


@pytest.mark.parametrize("owner, is_go", (("Go", True), ("GNU", False)))
def test_dynamically_linked_go(synergy, compiler, tmp_path, owner, is_go):
    """As its linker marks what it makes; every other program has such notes too."""
    program = tmp_path / "program"
    source = f"""__asm__(".section .note.go.buildid,\\"a\\",@note\\n"
                    ".p2align 2\\n.long 4, 8, 4\\n.string \\"{owner}\\"\\n"
                    ".p2align 2\\n.quad 0\\n.text");
                 int main(void) {{ return 7; }}"""
    subprocess.run([compiler, "-x", "c", "-o", program, "-"], input=source, text=True, check=True)
    result = synergy("run", "--peer", PEER, "--", program)
    if is_go:
        assert refused(result, f"synergy: {program} {GO}\n")
    else:
        assert result.returncode == 7


@pytest.mark.parametrize("is_dynamic", (False, True), ids=("static", "dynamic"))
def test_real_go(synergy, tmp_path, is_dynamic):
    if shutil.which("go") is None:
        pytest.skip("go missing: apt-get install golang-go")
    source, program = tmp_path / "main.go", tmp_path / "program"
    source.write_text('package main\nimport "net"\nfunc main() { net.Listen("tcp", "127.0.0.1:0") }\n')
    subprocess.run(["go", "build", "-o", program, source], check=True, timeout=120, env={
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "GO111MODULE": "off",
        "CGO_ENABLED": str(int(is_dynamic))})
    assert (b"/ld-linux" in program.read_bytes()) == is_dynamic
    assert refused(synergy("run", "--peer", PEER, "--", program), f"synergy: {program} {GO}\n")
    checked = synergy("check", PEER, "--", "nice", program)
    assert f"wrong: {program} {GO}" in checked.stdout.splitlines()


def test_check_of_a_command(synergy, static_program):
    """The same reasons as `run` has, whatever else is wrong on this machine."""
    for command, line in (
        (static_program, f"wrong: {static_program} {STATIC}"),
        ("sudo", "wrong: there is no command sudo" if shutil.which("sudo") is None
         else f"wrong: {passed_on('sudo')}"),
        ("env -i true", f"wrong: {passed_on('env')}"),
        (f"nice -n 5 {static_program}", f"wrong: {static_program} {STATIC}"),
        (f"nice -n 5 {shutil.which('true')}", f"ok: {shutil.which('true')} can be preloaded"),
        ("no-such-command", "wrong: there is no command no-such-command"),
        (shutil.which("true"), f"ok: {shutil.which('true')} can be preloaded"),
    ):
        result = synergy("check", "127.0.0.1:5555", "--", *str(command).split())
        assert line in result.stdout.splitlines(), result.stdout
        assert result.returncode == 1, "127.0.0.1 is nobody's peer"


def test_check_of_a_command_without_dashes(synergy):
    result = synergy("check", "true")
    assert "wrong: PEER: 'true': expected a host and a port, as [2001:db8::5]:5555, 198.51.100.5:5555 or " \
           "laptop.example.net:5555; and `--` before a command" in result.stdout.splitlines()
    assert "`--`" not in synergy("check", "no-such-command").stdout


@pytest.mark.parametrize("words, line", (
    ("env -u SYNERGY_PEERS true", "env takes SYNERGY_PEERS from what it starts"),
    ("nice env --unset=LD_PRELOAD true", "env takes LD_PRELOAD from what it starts"),
    ("env LD_PRELOAD=/x.so true", "env takes LD_PRELOAD from what it starts"),
    ("env -uSYNERGY_CONFIG true", None), ("env -u SYNERGY_LOG true", None), ("env A=1 true -u LD_PRELOAD", None)))
def test_what_env_takes_away(synergy, words, line):
    """Said by `check`, and `run` starts nothing that would not be punched for."""
    said = synergy("check", "--", *words.split(), SYNERGY_PEERS="127.0.0.1:5555").stdout.splitlines()
    ran = synergy("run", "--peer", PEER, "--", *words.split())
    if line is None:
        assert f"ok: {shutil.which('true')} can be preloaded" in said
        assert (ran.returncode, ran.stderr) == (0, "")
    else:
        assert f"wrong: {line}" in said
        assert refused(ran, f"synergy: {line}\n")


def test_settings_that_env_makes(synergy):
    """Behind `check` they are not looked at; behind `run` they are as good as any."""
    words = ["env", "SYNERGY_LOG=debug", "printenv", "SYNERGY_LOG"]
    said = synergy("check", "--", *words, SYNERGY_PEERS="127.0.0.1:5555").stdout
    assert "wrong: env sets SYNERGY_LOG for what it starts, and that is not looked at: set it before " \
           "`synergy check`\n" in said
    assert synergy("run", "--peer", PEER, "--", *words).stdout == "debug\n"


def test_address_that_ends_like_a_port(synergy):
    said = "synergy: {} is taken for an address without a port: with one it is {}\n"
    for text, other in (("2001:db8:b::5:5555", "[2001:db8:b::5]:5555"), ("::1:4444", "[::1]:4444")):
        result = synergy("probe", text, "--from", "192.0.2.1")
        assert said.format(text, other) in result.stderr, result.stderr
    for text in ("2001:db8:b::5:11", "2001:db8::5555", "1:2:3:4:5:6:7:5555", "[2001:db8:b::5]:5555", "::5:a555"):
        result = synergy("probe", text, "--from", "192.0.2.1")
        assert "is taken for" not in result.stderr, text


def test_scripts(synergy, tmp_path):
    script = program_of(tmp_path / "script", "#! /bin/sh -e\nprintenv LD_PRELOAD\n")
    assert synergy("run", "--peer", PEER, "--", script).stdout == f"{LIBRARY}\n"
    # execvp() gives what has no such line to the shell.
    script = program_of(tmp_path / "bare", "printenv LD_PRELOAD\n")
    assert synergy("run", "--peer", PEER, "--", script).stdout == f"{LIBRARY}\n"
    script = program_of(tmp_path / "empty", "")
    assert synergy("run", "--peer", PEER, "--", script).returncode == 0


def test_files_that_end_too_early(synergy, tmp_path):
    program = Path(shutil.which("true")).read_bytes()
    for length in 4, 20, 63, 64, 100, 255, 256, 300:
        short = program_of(tmp_path / "short", program[:length])
        # What becomes of it is the kernel's and the shell's affair, no reason to refuse it.
        result = synergy("run", "--peer", PEER, "--", short)
        assert not result.stderr.startswith(f"synergy: {short} is "), length


def test_32_bit(synergy, compiler, tmp_path):
    """A real one, dynamically linked."""
    program = tmp_path / "small"
    made = subprocess.run([compiler, "-m32", "-x", "c", "-o", program, "-"], text=True, check=False,
                          input="int main(void) { return 0; }", capture_output=True)
    if made.returncode != 0:
        pytest.skip("no 32-bit programs here: apt-get install gcc-multilib")
    line = f"{program} is built for another architecture than {LIBRARY}\n"
    assert refused(synergy("run", "--peer", PEER, "--", program), f"synergy: {line}")
    assert f"wrong: {line}" in synergy("check", PEER, "--", program).stdout


def test_another_architecture(synergy, tmp_path):
    program = bytearray(Path(shutil.which("true")).read_bytes())
    program[18:20] = struct.pack("=H", 8)  # e_machine: MIPS
    other = program_of(tmp_path / "other", bytes(program))
    assert refused(
        synergy("run", "--peer", PEER, "--", other),
        f"synergy: {other} is built for another architecture than {LIBRARY}\n",
    )


def grants(directory):
    return os.geteuid() == 0 and not os.statvfs(directory).f_flag & os.ST_NOSUID


def test_set_user_id(synergy, tmp_path):
    if not grants(tmp_path):
        pytest.skip("needs root, and a temporary directory that is not mounted nosuid")
    program = tmp_path / "program"
    shutil.copy(shutil.which("true"), program)
    for uid, gid, mode, reason in (
        (NOBODY, 0, 0o4755, "set-user-ID"),
        (0, NOBODY, 0o2755, "set-group-ID"),
    ):
        os.chown(program, uid, gid)
        program.chmod(mode)
        line = f"{program} is {reason}: the dynamic linker ignores LD_PRELOAD for it\n"
        assert refused(synergy("run", "--peer", PEER, "--", program), f"synergy: {line}")
        assert refused(synergy("run", "--peer", PEER, "--", "env", program), f"synergy: {line}")
        assert f"wrong: {line}" in synergy("check", PEER, "--", program).stdout
    # To become who one is already is no reason to ignore anything.
    os.chown(program, 0, 0)
    program.chmod(0o6755)
    assert synergy("run", "--peer", PEER, "--", program).returncode == 0


def test_set_user_id_of_the_system(synergy):
    program = shutil.which("passwd")
    if program is None or os.geteuid() == 0 or not os.stat(program).st_mode & stat.S_ISUID:
        pytest.skip("needs a set-user-ID program and another user")
    message = f"synergy: {program} is set-user-ID: the dynamic linker ignores LD_PRELOAD for it\n"
    assert refused(synergy("run", "--peer", PEER, "--", "passwd"), message)


def tree_of(directory, library=Path("preload"), keeper=KEEPER):
    """A copy of the program, and of library and keeper where they are wanted."""
    (directory / "src").mkdir(parents=True)
    shutil.copy(SYNERGY, directory / "src" / "synergy")
    if library is not None:
        (directory / library).mkdir(parents=True)
        shutil.copy(LIBRARY, directory / library / "libsynergy.so")
    if keeper is not None:
        shutil.copy(keeper, directory / "src" / "synergy-keeper")
    return directory / "src" / "synergy"


@pytest.mark.parametrize("name", ["with space", "with:colon"])
def test_a_path_that_cannot_be_in_ld_preload(synergy, tmp_path, name):
    program = tree_of(tmp_path / name)
    library = tmp_path / name / "preload" / "libsynergy.so"
    assert refused(
        synergy("run", "--peer", PEER, "--", "true", program=program),
        f"synergy: {library}: a path with a colon or a space can't be in LD_PRELOAD\n",
    )


def test_where_the_library_is(synergy, tmp_path):
    result = synergy("run", "--peer", PEER, "--", "true", program=tree_of(tmp_path / "none", None))
    assert (result.returncode, result.stdout) == (2, "")
    match = re.fullmatch(
        r"synergy: libsynergy.so is neither in ../preload nor in ../(\S+) beside this program\n",
        result.stderr,
    )
    assert match
    program = tree_of(tmp_path / "installed", Path(match.group(1)), keeper=None)
    # As in a prefix that lies elsewhere now.
    keeper = tmp_path / "installed" / "libexec" / "synergy-keeper"
    keeper.parent.mkdir()
    shutil.copy(KEEPER, keeper)
    result = synergy("run", "--peer", PEER, "--", "printenv", "LD_PRELOAD", program=program)
    assert result.stdout == f"{tmp_path}/installed/{match.group(1)}/libsynergy.so\n"
    # Found by where the program is, not by how it was called.
    link = tmp_path / "link"
    link.symlink_to(program)
    result = synergy("run", "--peer", PEER, "--", "printenv", "LD_PRELOAD", program=link)
    assert result.stdout == f"{tmp_path}/installed/{match.group(1)}/libsynergy.so\n"


def test_without_the_keeper(synergy, tmp_path):
    """Which does all the work: what is started without it would be a server that nobody reaches."""
    program = tree_of(tmp_path, keeper=None)
    line = f"synergy-keeper is neither beside {tmp_path}/preload/libsynergy.so nor installed"
    checked = synergy("check", PEER, "--", "true", program=program)
    if line not in checked.stdout and synergy("run", "--peer", PEER, "--", "true",
                                              program=program).returncode == 0:
        pytest.skip("a keeper is installed on this machine")
    assert f"wrong: {line}" in checked.stdout.splitlines()
    assert checked.returncode == 1
    assert refused(synergy("run", "--peer", PEER, "--", "echo", "started", program=program),
                   f"synergy: {line}\n")


def test_probe_help(synergy):
    result = synergy("probe", "--help")
    assert result.returncode == 0
    for word in "PEER", "--from ADDR", "--json", "hop_limit", "Exit status":
        assert word in result.stdout
    assert all(len(line) <= 100 for line in result.stdout.splitlines())
    assert "probe " in synergy("--help").stdout


def test_probe_usage_errors(synergy):
    peer = "expected an address or host name, as [2001:db8::5]:5555"
    assert refused(synergy("probe"), "synergy: PEER is required\n")
    for text in "127.0.0.1:0", "127.0.0.1:70000", "localhost:http", "::", "0.0.0.0:1", "ff02::1":
        result = synergy("probe", text)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith(f"synergy: PEER: '{text}': {peer}: "), result.stderr
    assert refused(
        synergy("probe", "::1", "--from", "here"),
        "synergy: --from: 'here': expected an address of this host, as 2001:db8::11\n",
    )
    assert refused(
        synergy("probe", "::1", "--from", "127.0.0.1"),
        "synergy: --from: '127.0.0.1': expected an address of the peer's family\n",
    )
    assert refused(
        synergy("probe", "::1", SYNERGY_HOPS_MAX="many"),
        "synergy: SYNERGY_HOPS_MAX: 'many': expected a hop limit from 1 to 254\n",
    )


def test_range_of_ports_that_would_be_cut_short(synergy):
    assert refused(
        synergy("test", "192.0.2.1:5555-5560"),
        "synergy: PEER: '192.0.2.1:5555-5560': expected one port, from which on twelve are used at "
        "both ends, or none\n")


def test_who_looks_is_told_of_mistyped_settings_too(synergy):
    for command in "probe", "test":
        assert refused(synergy(command, "127.0.0.1", SYNERGY_PEER=PEER),
                       "synergy: environment: 'SYNERGY_PEER': expected SYNERGY_PEERS\n")


def test_twelve_ports_are_not_bells_or_the_meeting_place(synergy):
    for port in 61688, 61699, 63747, 65525:
        result = synergy("test", f"192.0.2.1:{port}")
        assert (result.returncode, result.stdout) == (2, "")
        assert f"'192.0.2.1:{port}': expected a port from which on twelve are free" in result.stderr


def test_probe_of_this_host(synergy):
    """Every way to write a peer; no hop limit is found, since no router lies between."""
    for text, address in (
        ("127.0.0.1:5555", "127.0.0.1"),
        ("127.0.0.1:5555-5560", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::ffff:127.0.0.1]:5555", "127.0.0.1"),
        ("localhost:5555", None),
        ("localhost", None),
    ):
        result = synergy("probe", text, "--json")
        assert (result.returncode, result.stderr) == (1, ""), text
        document = json.loads(result.stdout)
        assert list(document) == [
            "peer", "source", "on_link", "hops", "hop_limit", "found", "reason",
        ]  # fmt: skip
        assert document["peer"] == address or address is None
        assert document["on_link"] and not document["found"]
    result = synergy("probe", "127.0.0.1")
    assert result.stdout.startswith("to 127.0.0.1 from 127.0.0.1\n  1  127.0.0.1 ")
    result = synergy("probe", "127.0.0.1", "--from", "192.0.2.77")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "synergy: can't probe 127.0.0.1 from 192.0.2.77: 192.0.2.77 is no address of this host\n"
    )
    # (Where this is a namespace's, or a machine with no IPv6, "::1" may not be there.)
    if Path("/proc/net/if_inet6").exists() and Path("/proc/net/if_inet6").read_text():
        for text in "[::1]:5555", "[::1]", "::1":
            document = json.loads(synergy("probe", text, "--json").stdout)
            assert (document["peer"], document["source"]) == ("::1", "::1")


@pytest.mark.parametrize("words", ("check 127.0.0.1:5", "status", "probe 127.0.0.1", "--help",
                                   "probe --help", "--version"))
@pytest.mark.parametrize("to", (">/dev/full", ">&-"))
def test_output_that_is_lost_is_no_success(synergy, words, to):
    """On a full disk, and where there is no standard output at all."""
    result = synergy("-c", f"{SYNERGY} {words} {to}", program="/bin/sh")
    assert result.returncode == 2
    assert result.stderr == "synergy: standard output can't be written\n"


def test_what_is_there_and_no_program_is_named(synergy, tmp_path):
    (tmp_path / "text").write_text("no program\n", encoding="ascii")
    for name, line in (
        ("text", "text can't be executed: Permission denied"),
        (".", ". can't be executed: Is a directory"),
    ):
        result = synergy("check", "--", f"{tmp_path}/{name}")
        assert f"wrong: {tmp_path}/{line}\n" in result.stdout
    result = synergy("check", "--", f"{tmp_path}/none")
    assert f"wrong: there is no command {tmp_path}/none\n" in result.stdout


def test_an_option_is_named_as_it_was_written(synergy):
    result = synergy("test", "[2001:db8::5]", "--hops", "0")
    line = "synergy: --hops: '0': expected a hop limit from 1 to 254, or auto\n"
    assert (result.returncode, result.stderr) == (2, line)
