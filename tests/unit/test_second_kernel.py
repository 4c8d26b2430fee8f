"""What scripts/test-uml preloads into the second kernel, on processors that need it and others.

Run by /usr/bin/python3 -m pytest; SYNERGY_BUILD names the build directory (default: build).
"""

import os
import platform
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("SYNERGY_BUILD", REPOSITORY / "build")).resolve() / "tests"
LIBRARY = PROGRAMS / "libxstate.so"

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="registers of x86")


def lines_of_registers(**variables):
    done = subprocess.run([PROGRAMS / "registers"], env=variables, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout.splitlines()


def test_linux_takes_no_beginning_of_the_registers():
    """What the library is for: where this fails, it is needed no more."""
    assert lines_of_registers() == ["set EFAULT", "lower c, upper c"]


def test_a_beginning_is_set_and_the_rest_stays():
    assert lines_of_registers(LD_PRELOAD=str(LIBRARY)) == ["set taken", "lower p, upper c"]
