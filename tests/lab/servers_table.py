"""What test_by_name.py wrote down, as a table for readers: servers_table.py FILE."""

import json
import pathlib
import platform
import re
import sys

HEAD = """# Servers that were tried

Written by `scripts/servers`: each server from Debian {debian} behind strict firewalls, called ten times
by an unmodified client, one call after the other as soon as the last one is over, each from a fresh
port of a range (`iperf3` and `vsftpd`: ports, as the client likes). `without` is the same call to the
same server without the library. Times are those of a whole conversation, not of a connection alone.
Linux {kernel}.

| server | with the library | without | median | slowest |
|---|---|---|---|---|
"""


def seconds(value):
    return "" if value is None else f"{value:.2f} s"


def main():
    lines = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    print(HEAD.format(
        debian=pathlib.Path("/etc/debian_version").read_text(encoding="ascii").strip(),
        kernel=re.match(r"\d+\.\d+", platform.release())[0]), end="")
    for entry in entries:
        print(f"| {entry['server']} | {entry['in']} of {entry['calls']} | {entry['without']} of 1 "
              f"| {seconds(entry['median'])} | {seconds(entry['slowest'])} |")
    said = sorted({line for entry in entries for line in entry["said"]})
    if said:
        print("\nWhat the library said:\n")
        for line in said:
            print(f"    {line}")


main()
