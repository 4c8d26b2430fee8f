"""What test_by_name.py wrote down, as a table for readers: servers_table.py FILE."""

import itertools
import json
import pathlib
import platform
import re
import sys

HEAD = """# Servers that were tried

Written by `scripts/servers`: each server from Debian {debian} behind strict firewalls, called ten times
by an unmodified client, one call after the other as soon as the last one is over, each from a fresh
port of a range (those with several connections in a call, from several). `without` is the same call to the
same server without the library. Times are those of a whole conversation and of a client's start, not of a
connection alone; `port open` is that of one call, the server's first, without firewalls and library. Linux
{kernel}. {count} servers; those that can't be preloaded are listed, too, with what
`synergy check` says of them.
"""
COLUMNS = """
## {theme}

| server | with the library | without | median | slowest | port open |
|---|---|---|---|---|---|"""


def seconds(value):
    return "" if value is None else f"{value:.2f} s"


def row(entry):
    why = f": {entry['cannot']}" if entry["cannot"] else ""
    return (f"| {entry['server']} | {entry['in']} of {entry['calls']}{why} | {entry['without']} of 1 "
            f"| {seconds(entry['median'])} | {seconds(entry['slowest'])} | {seconds(entry['opened'])} |")


def main():
    lines = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    entries = sorted(map(json.loads, lines), key=lambda entry: entry["number"])
    print(HEAD.format(
        debian=pathlib.Path("/etc/debian_version").read_text(encoding="ascii").strip(),
        kernel=re.match(r"\d+\.\d+", platform.release())[0], count=len(entries)), end="")
    for theme, of_theme in itertools.groupby(entries, lambda entry: entry["theme"]):
        print(COLUMNS.format(theme=theme.rstrip(".")), *map(row, of_theme), sep="\n")
    said = sorted({line for entry in entries for line in entry["said"]})
    if said:
        print("\n## What the library said\n")
        for line in said:
            print(f"    {line}")


main()
