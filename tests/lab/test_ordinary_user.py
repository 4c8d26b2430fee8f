"""The lab needs no root: an ordinary user runs a case of it in a user namespace of one's own."""

import os
import pathlib
import shutil
import subprocess

import pytest

# Within the lab's own mounts, and not in /run, over which the inner lab mounts its own.
PLACE = pathlib.Path("/mnt")
TOP = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture
def copy(library):
    """The checkout and the build may be unreadable for the user."""
    del library
    build = pathlib.Path(os.environ["SYNERGY_BUILD"])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "lab", PLACE], check=True)
    shutil.copytree(TOP / "tests/lab", PLACE / "tests/lab",
                    ignore=shutil.ignore_patterns("__pycache__"))
    (PLACE / "scripts").mkdir()
    shutil.copy(TOP / "scripts/lab", PLACE / "scripts/lab")
    for part, names in (("preload", ("libsynergy.so",)),
                        ("src", ("listendemo", "synergy", "synergy-keeper"))):
        (PLACE / "build" / part).mkdir(parents=True)
        for name in names:
            shutil.copy(build / part / name, PLACE / "build" / part / name)
    subprocess.run(["chmod", "-R", "a+rX", PLACE], check=True)
    yield PLACE
    subprocess.run(["umount", PLACE], check=True)


@pytest.mark.other_users
@pytest.mark.needs("nc.openbsd")
def test_lab_as_ordinary_user(copy):
    variables = {**os.environ, "SYNERGY_BUILD": str(copy / "build"), "HOME": "/nonexistent"}
    result = subprocess.run(
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", copy / "scripts/lab",
         "-k", "test_tcp_servers and test_strict and (nc.openbsd or sshd)"],
        cwd=copy, env=variables, capture_output=True, text=True, timeout=120, check=False)
    print(result.stdout, result.stderr)
    assert result.returncode == 0
    # The one that needs a second user says so.
    assert "1 passed, 1 skipped" in result.stdout
    assert "SKIPPED [1]" in result.stdout and "second user" in result.stdout
