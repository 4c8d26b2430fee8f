"""The unit tests of what punches for SCTP, on a kernel that has it (scripts/test-uml)."""

import os
import subprocess

import pytest

import sctp


@pytest.mark.parametrize("part", ("sctp_punch", "sctp_many_punch"))
def test_unit(part):
    sctp.skip_if_missing()
    unit = os.path.join(os.environ["SYNERGY_BUILD"], "tests/unit")
    done = subprocess.run([unit, f"--source-file=*/{part}_test.cpp"], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    print(done.stdout)
    assert done.returncode == 0
    assert "| 0 passed" not in done.stdout
