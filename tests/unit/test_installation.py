"""What is installed, found from wherever it lies, and what is left when it is removed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("SYNERGY_BUILD", REPOSITORY / "build")).resolve()
SERVER = """
import socket
import sys
listener = socket.create_server(("127.0.0.1", 0))
print("listens", flush=True)
sys.stdin.read()
"""


def meson(command, root):
    subprocess.run(
        ["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", root]
        if command == "install" else ["ninja", "-C", BUILD, "uninstall"],
        env={**os.environ, "DESTDIR": str(root)}, check=True, capture_output=True, text=True)


def files(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def only(root, pattern):
    found = [path for path in root.rglob(pattern)]
    assert len(found) == 1, found
    return found[0]


@pytest.fixture
def root(tmp_path):
    """A root directory that all is installed below, under its prefix."""
    tree = tmp_path / "root"
    # What uninstalling goes by: of whoever has installed this build before.
    log = BUILD / "meson-logs/install-log.txt"
    before = log.read_bytes() if log.exists() else None
    try:
        meson("install", tree)
        yield tree
    finally:
        if before is not None:
            log.write_bytes(before)


def keeper_of(library, home):
    """What a server with this library starts for a keeper, as the kernel has it; and what it says."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LD_PRELOAD": str(library),
                   "SYNERGY_PEERS": "127.0.0.1:9", "SYNERGY_HOPS": "1", "LC_ALL": "C"}
    server = subprocess.Popen([sys.executable, "-c", SERVER], env=environment, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert server.stdout.readline() == "listens\n"
        keepers = [os.readlink(process / "exe") for process in Path("/proc").glob("[0-9]*")
                   if is_keeper(process, home)]
    finally:
        said = server.communicate("")[1]
    return keepers, said


def is_keeper(process, home):
    """One that has this home from its server; it is no child of that."""
    try:
        return ((process / "cmdline").read_bytes().startswith(b"synergy-keeper\0")
                and f"HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0"))
    except OSError:
        return False


def test_the_keeper_is_found_from_the_library_wherever_the_tree_lies(root, tmp_path):
    library = only(root, "libsynergy.so").resolve()
    keeper = str(only(root, "synergy-keeper"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = elsewhere / "lib.so"
    link.symlink_to(library)
    chain = elsewhere / "chain.so"
    chain.symlink_to("lib.so")
    for i, place in enumerate((library, link, chain, os.path.relpath(library))):
        assert keeper_of(place, tmp_path / str(i)) == ([keeper], ""), place


def test_without_a_keeper_one_line_says_so(root, tmp_path):
    """The negative control of the above."""
    if Path(prefix_keeper()).exists():
        pytest.skip("installed on this machine")
    only(root, "synergy-keeper").unlink()
    keepers, said = keeper_of(only(root, "libsynergy.so"), tmp_path)
    assert keepers == []
    assert re.fullmatch(r"synergy: error: nothing is punched: synergy-keeper .*\n", said)


def prefix_keeper():
    library = only(BUILD / "preload", "libsynergy.so").read_bytes()
    return re.search(rb"/[ -~]*/synergy-keeper(?=\0)", library)[0].decode()


def test_a_config_file_is_never_overwritten_and_none_is_installed(root):
    assert not [name for name in files(root) if name.endswith("synergy.toml")]
    example = only(root, "synergy.toml.example")
    assert example.read_text() == (REPOSITORY / "config/synergy.toml").read_text()
    own = system_config(root)
    own.parent.mkdir(parents=True)
    own.write_text('peers = ["[2001:db8::5]:5555"]\n')
    meson("install", root)
    assert own.read_text() == 'peers = ["[2001:db8::5]:5555"]\n'
    meson("uninstall", root)
    assert files(root) == {str(own.relative_to(root))}


def system_config(root):
    library = (BUILD / "src/synergy").read_bytes()
    place = re.search(rb"/[ -~]*(?=/synergy/synergy\.toml\0)|/[ -~]*/etc(?=\0)", library)[0].decode()
    return root / place.lstrip("/") / "synergy/synergy.toml"


def test_uninstalling_leaves_nothing(root):
    assert len(files(root)) >= 8
    meson("uninstall", root)
    assert files(root) == set()


def test_programs_link_to_a_soname_and_a_version(root, tmp_path):
    library = only(root, "libsynergy.so")
    dynamic = subprocess.run(["readelf", "-dW", library], check=True, capture_output=True,
                             text=True).stdout
    soname = re.search(r"SONAME.*\[(.*)\]", dynamic)[1]
    assert re.fullmatch(r"libsynergy\.so\.\d+", soname)
    assert (library.parent / soname).exists()
    source = tmp_path / "call.c"
    source.write_text("#include <sys/socketsynergy.h>\n"
                      "int main(void) { return synergy(-1, 3, 0) == 0; }\n")
    headers = only(root, "socketsynergy.h").parent.parent
    program = tmp_path / "call"
    subprocess.run(["cc", f"-I{headers}", source, "-o", program, f"-L{library.parent}", "-lsynergy"],
                   check=True)
    assert soname in subprocess.run(["readelf", "-dW", program], check=True, capture_output=True,
                                    text=True).stdout
    wanted = subprocess.run(["readelf", "-VW", program], check=True, capture_output=True,
                            text=True).stdout
    assert re.search(rf"File: {re.escape(soname)}\s", wanted)
    done = subprocess.run([program], env={"LD_LIBRARY_PATH": str(library.parent)}, check=False)
    assert done.returncode == 0
