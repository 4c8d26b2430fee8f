"""The manual pages: every option and variable that the programs know is in them, and no other. The
programs are asked: an option is what --help says, a variable what is expected in place of one that is
unknown."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("SYNERGY_BUILD", REPOSITORY / "build")).resolve()
PAGES = {"synergy.1": "src/tools", "listendemo.1": "src/tools", "synergy-keeper.8": "src/keeper",
         "libsynergy.7": "preload"}


def page(name):
    """Its text, without the marks of fonts."""
    text = (REPOSITORY / PAGES[name] / name).read_text(encoding="ascii")
    text = re.sub(r"\\f.|\\\(aq", "", text).replace("\\-", "-")
    return "\n".join(line for line in text.splitlines() if not line.startswith((".TH", '.\\"')))


def said(program, *arguments, **environment):
    return subprocess.run([BUILD / "src" / program, *arguments], check=False, capture_output=True,
                          text=True, timeout=30,
                          env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment})


def options_in(text):
    return set(re.findall(r"(?<![\w-])--?[a-z](?:[\w-]*\w)?", text))


def options_of(program, *command):
    """What --help lists at the beginning of a line."""
    help_text = said(program, *command, "--help").stdout
    lines = re.findall(r"^  (-\S+)", help_text, re.MULTILINE)
    return {option for line in lines for option in re.split(r"[,:]", line) if option.startswith("-")}


def commands():
    listed = said("synergy", "--help").stdout.partition("Subcommands:\n")[2]
    return re.findall(r"^  (\w+)", listed, re.MULTILINE)


def variables():
    document = said("synergy", "check", "::1", SYNERGY_ANYTHING="1").stdout
    return set(re.findall(r"SYNERGY_\w+", document.partition("expected one of ")[2].splitlines()[0]))


def test_every_option_is_in_the_manual_and_no_other():
    known = options_of("synergy").union(*(options_of("synergy", name) for name in commands()))
    assert len(known) > 8
    described = re.findall(r"^\.T[PQ]\n(.*)", page("synergy.1"), re.MULTILINE)
    assert options_in("\n".join(described)) == known
    synopsis = page("synergy.1").partition(".SH DESCRIPTION")[0]
    for name in commands():
        usage = re.search(rf"^\.B synergy {name}\n(.*?)(?=^\.br)", synopsis, re.S | re.M)[1]
        assert options_in(usage) == options_of("synergy", name) - {"-h", "--help"}, name


def test_every_command_is_in_the_manual_and_no_other():
    section = page("synergy.1").partition(".SH COMMANDS\n")[2].partition(".SH ")[0]
    assert re.findall(r"^\.TP\n\.B (\w+)$", section, re.MULTILINE) == commands()
    section = page("synergy.1").partition(".SH EXIT STATUS\n")[2].partition(".SH ")[0]
    assert re.findall(r"^\.TP\n\.B (\w+)$", section, re.MULTILINE) == commands()


def test_listendemo():
    assert options_in(page("listendemo.1")) == options_of("listendemo")
    positionals = said("listendemo", "--help").stdout.partition("Usage: ")[2].splitlines()[0]
    assert ".I " + positionals.partition("] ")[2] in page("listendemo.1")


def test_every_variable_is_in_the_manual_and_no_other():
    known = variables()
    assert len(known) > 8
    section = page("libsynergy.7").partition(".SH ENVIRONMENT\n")[2].partition(".SH ")[0]
    headings = "\n".join(re.findall(r"^\.TP\n(.*)", section, re.MULTILINE))
    assert set(re.findall(r"SYNERGY_\w+", headings)) == known
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    table = readme.partition("## Settings\n")[2].partition("\n\nThe file")[0]
    assert set(re.findall(r"`(SYNERGY_\w+)`", table)) == known


def test_every_key_of_the_file_is_in_the_manual():
    example = (REPOSITORY / "config/synergy.toml").read_text(encoding="ascii")
    keys = set(re.findall(r"^#(\w+) =", example, re.MULTILINE))
    assert len(keys) > 8
    words = set(re.findall(r"\w+", page("libsynergy.7")))
    assert keys <= words


@pytest.mark.parametrize("name", PAGES)
def test_is_a_page_without_mistakes(name):
    if not shutil.which("groff"):
        pytest.skip("groff missing: apt-get install groff-base")
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-rLL=78n",
                           REPOSITORY / PAGES[name] / name], check=True, capture_output=True,
                          text=True)
    assert done.stderr == ""
    shown = re.sub(r".\x08", "", done.stdout)  # how a terminal's bold is said
    assert "\nNAME\n" in shown and "\nSEE ALSO\n" in shown
    # What it refers to is there.
    others = set(re.findall(r"(?:libsynergy|synergy|listendemo|synergy-keeper)\(\d\)", page(name)
                            .replace(" (", "(")))
    assert {other.replace("(", ".").rstrip(")") for other in others} <= set(PAGES)
