"""Runs the tests that meson knows, and counts cases; scripts/test says how it is called.

Each test is a process (a file of doctest cases, a pytest run, a part of the lab) whose output goes
to a file and is read while it runs: what has been done, what has failed. A case that was promised
and was not heard of has failed, whatever the process says.
"""

import contextlib
import copy
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

# Side by side: the parts of the lab, which mostly wait, and some of the unit tests, which do too.
AT_A_TIME = 12
SANITIZED_AT_A_TIME = 6  # they work more than they wait
SAY_EVERY = 15  # seconds, where no line can be rewritten

PYTEST_CASE = re.compile(r"^(?:tests/\w+/)?(\S+?\.py::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b")
PYTEST_TOTAL = re.compile(r"^(?:collecting \.\.\. )?collected (\d+) items?(?:.*/ (\d+) selected)?")
PYTEST_SKIPPED = re.compile(r"^SKIPPED \[(\d+)\] (?:\S+?:\d+: )?(.*)$")
SECOND_TRY = "=== What failed, once more, alone"
# More than that is no bad moment of the machine's.
SECOND_TRIES_MOST = 3
# scripts/test-uml, where its kernel does not start.
WHOLLY_SKIPPED = re.compile(r"^(.*)\n0 passed, 0 failed, 1 skipped\s*$", re.MULTILINE)
DOCTEST_CASES = re.compile(r"test cases: +\d+ \| +(\d+) passed \| +(\d+) failed")


class Test:
    """A test of meson's, while it runs and after."""

    def __init__(self, described, directory, label, arguments=()):
        self.name = label + described["name"]
        self.suite = described["suite"][0].partition(":")[2]
        self.priority = described["priority"]
        self.command = [*described["cmd"], *arguments]
        self.environment = {**os.environ, **described["env"]}
        self.timeout = described["timeout"]
        self.is_doctest = self.command[0].endswith("/tests/unit")
        self.is_pytest = "-v" in self.command
        self.log = directory / f"{self.name.replace('/', '-')}.log"
        self.expected = 0 if self.is_pytest else 1
        self.is_selection = bool(arguments)
        self.cases = {}  # name: outcome
        self.passed = self.failed = self.skipped = 0  # what has no name
        self.unsteady = []
        self.reasons = {}  # why cases were skipped: how many
        self.problem = ""
        self.process = None
        self.lines_read = 0
        if self.is_doctest:
            counted = subprocess.run([*self.command, "--count"], capture_output=True, text=True,
                                     check=False).stdout
            found = re.search(r"unskipped test cases passing the current filters: (\d+)", counted)
            self.expected = int(found[1]) if found else 1

    def again(self):
        """The same once more; the lab has second tries of its own."""
        if "--second-try" in self.command:
            return None
        other = copy.copy(self)
        other.log = self.log.with_suffix(".again.log")
        other.cases, other.unsteady, other.reasons = {}, [], {}
        other.passed = other.failed = other.skipped = other.lines_read = 0
        other.problem = ""
        return other

    def start(self):
        self.started = time.monotonic()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True)
        # What is late in these is not to be that for what runs beside them. As far as one may.
        if self.is_doctest:
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, self.process.pid, -5)

    def kill(self):
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def read(self):
        """What has been written since; gives the names of what is new among the failed."""
        before = set(self.names_of("failed"))
        self.cases, self.reasons, self.unsteady = {}, {}, []
        again = False
        for line in self.text().splitlines():
            again = again or line.startswith(SECOND_TRY)
            if self.is_pytest and (case := PYTEST_CASE.match(line)):
                self.note(case[1], case[2], again)
            elif not again and self.is_pytest and (total := PYTEST_TOTAL.match(line)):
                self.expected = int(total[2] or total[1])
            elif not again and (skipped := PYTEST_SKIPPED.match(line)):
                self.reasons[skipped[2]] = self.reasons.get(skipped[2], 0) + int(skipped[1])
            elif self.is_doctest and (found := DOCTEST_CASES.search(line)):
                self.passed, self.failed = int(found[1]), int(found[2])
        return [name for name in self.names_of("failed") if name not in before]

    def text(self):
        said = self.log.read_text(encoding="utf-8", errors="replace")
        return re.sub(r"\x1b\[[0-9;]*m", "", said)

    def note(self, name, outcome, again):
        outcome = {"PASSED": "passed", "SKIPPED": "skipped"}.get(outcome, "failed")
        if again and outcome == "passed":
            self.unsteady.append(name)
        elif self.cases.get(name) == "failed":
            return  # (a case that passes may still fail while it is cleared up)
        self.cases[name] = outcome

    def names_of(self, outcome):
        return [name for name, known in self.cases.items() if known == outcome]

    def is_over(self):
        """Whether the process has ended; it is ended where it takes too long."""
        if self.process.poll() is None:
            if time.monotonic() - self.started < self.timeout:
                return False
            self.kill()
            self.problem = f"still running after {self.timeout} s"
        status = self.process.returncode
        self.read()
        if not self.is_doctest and not self.is_pytest:
            self.passed = int(status == 0)
        missing = self.expected - self.counts()[0] - self.counts()[1] - self.counts()[2]
        if missing > 0:
            self.problem = self.problem or f"ended by itself, status {status}"
            self.problem += f": {missing} of {self.expected} cases did not come to their end"
            self.failed += missing
        elif self.counts()[1]:
            pass
        elif status == 0 and (skipped := WHOLLY_SKIPPED.search(self.text())):
            self.skipped = 1
            self.reasons = {f"{self.name}, all of it: {skipped[1]}": 1}
        elif status != 0 and not (status == 5 and self.is_selection):
            # (5: pytest found nothing to do.)
            self.problem = f"ended with status {status}"
            self.failed += 1
        elif not any(self.counts()) and not self.is_selection:
            self.problem = "ran nothing"
            self.failed += 1
        return True

    def counts(self):
        return (self.passed + len(self.names_of("passed")),
                self.failed + len(self.names_of("failed")),
                self.skipped + len(self.names_of("skipped")))

    def failures(self):
        """What is to be said of them in one line each."""
        lines = [f"{self.name}: {name}" for name in self.names_of("failed")]
        if self.problem:
            lines.append(f"{self.name}: {self.problem}")
        elif self.failed:
            lines.append(f"{self.name}: {self.failed} of {self.expected} cases")
        return lines


class Progress:
    """What is done, of how many; a line of its own for each failure, as soon as it is known."""

    def __init__(self):
        self.start = time.monotonic()
        self.said = 0
        self.is_terminal = sys.stdout.isatty()

    def time(self):
        seconds = int(time.monotonic() - self.start)
        return f"{seconds // 60}:{seconds % 60:02}"

    def line(self, text):
        print(("\r\x1b[K" if self.is_terminal else "") + text, flush=True)

    def show(self, tests, running):
        counts = [sum(column) for column in zip(*(test.counts() for test in tests))]
        text = (f"[{self.time()}] {sum(counts)} of {sum(test.expected for test in tests)}, "
                f"{counts[1]} failed; running: {' '.join(test.name for test in running)}")
        if self.is_terminal:
            width = os.get_terminal_size().columns
            print("\r\x1b[K" + text[:width - 1], end="", flush=True)
        elif time.monotonic() - self.said >= SAY_EVERY:
            self.said = time.monotonic()
            print(text, flush=True)


def run(tests, progress, everything, at_a_time=AT_A_TIME):
    """Runs them, some at a time."""
    waiting, running = list(tests), []
    try:
        while waiting or running:
            while waiting and len(running) < at_a_time:
                running.append(waiting.pop(0))
                running[-1].start()
            for test in list(running):
                for name in test.read():
                    progress.line(f"[{progress.time()}] failed: {test.name}: {name}")
                if test.is_over():
                    running.remove(test)
                    if test.problem or (test.is_doctest and test.failed):
                        progress.line(f"[{progress.time()}] failed: {test.failures()[-1]}")
            progress.show(everything, running)
            time.sleep(0.2)
    finally:
        for test in running:
            test.kill()


def told_by(directory, suites, label="", arguments=lambda described: ()):
    """The tests of these suites that meson knows in a build directory, each with further arguments;
    with None, it is left out."""
    logs = pathlib.Path(directory, "test-logs")
    logs.mkdir(exist_ok=True)
    described = json.loads(subprocess.run(
        ["meson", "introspect", "--tests", directory], check=True, capture_output=True).stdout)
    return [Test(test, logs, label, arguments(test)) for test in described
            if test["suite"][0].partition(":")[2] in suites and arguments(test) is not None]


# What meson is to be told of build directories that have what others have not.
SANITIZED = ["-Dbuildtype=plain", "-Doptimization=0", "-Db_lundef=false",
             # What a sanitizer finds is an error, whoever runs the program: the lab passes no
             # environment on.
             # (To see whether an object is what it should be the sanitizer opens a pipe: where no
             # descriptor is left, as in some tests, it takes every object for another.)
             "-Dcpp_args=-g1 -fno-sanitize-recover=all -fno-sanitize=vptr",
             "-Dc_args=-g1 -fno-sanitize-recover=all"]
OPTIONS = {
    "build": [],
    "build-asan": [*SANITIZED, "-Db_sanitize=address,undefined"],
    "build-tsan": [*SANITIZED, "-Db_sanitize=thread"],
}
# Counters that lie in files, mapped by every process that counts: they are complete whatever ends
# it, also SIGKILL, and need no rights that a server has given up. Only clang has such.
COUNTERS = pathlib.Path("build-coverage/counters").absolute()
COUNTING = (f"-fprofile-instr-generate={COUNTERS}/%m%c.profraw -fprofile-update=atomic"
            " -fcoverage-mapping -mllvm -runtime-counter-relocation -Wno-unknown-warning-option")
OPTIONS["build-coverage"] = ["-Dbuildtype=plain", "-Doptimization=0", f"-Dc_args={COUNTING}",
                             f"-Dcpp_args={COUNTING}", "-Dc_link_args=-fprofile-instr-generate",
                             "-Dcpp_link_args=-fprofile-instr-generate"]
COMPILERS = {"build-coverage": {"CC": "clang", "CXX": "clang++"}}
THIS_KERNEL = ("unit", "hooks", "lab")
# For coverage, beside all of unit and hooks: what runs most of the lines for the time it takes.
COUNTED_LAB = ("test_strict or test_lines or test_status or test_test or test_auto or test_bells"
               " or test_limits or test_rights or test_socket_call or test_programs or test_probe")
COUNTED_KERNEL2 = "sctp_servers and (test_strict or test_notifications) or test_unit"
# One server of each transport, through strict firewalls.
QUICK = ("test_strict and (test_tcp_servers and ncat or test_udp_servers and nc.openbsd"
         " or test_sctp_servers and ncat)")
# Each part of the lab begins with looking at every case: a few cases need few parts.
QUICK_PARTS = 2


def counted_part(suite):
    return {"lab": ("-k", COUNTED_LAB, "-m", "not quiet"), "kernel2": ("-k", COUNTED_KERNEL2)}.get(suite, ())


def make_files_writable_in(directory):
    """For everybody, what is made there later, whatever the umask of who makes it (acl(5): a default
    ACL takes its place). All other files of a test are made with the umask that users have."""
    everybody = b"".join(struct.pack("<HHI", tag, 6, 0xffffffff)  # reads and writes
                         for tag in (0x01, 0x04, 0x20))  # its user, its group, all others
    os.setxattr(directory, "system.posix_acl_default", struct.pack("<I", 2) + everybody)


def lines_run(directory):
    """By file of src/ and preload/, how many of its lines were run, and how many there are."""
    counters = [str(path) for path in COUNTERS.glob("**/*.profraw")]
    together = f"{directory}/all.profdata"
    programs = [f"{directory}/{name}" for name in (
        "tests/unit", "src/synergy-keeper", "src/synergy", "src/listendemo",
        "preload/libsynergy.so")]
    objects = [word for program in programs for word in ("-object", program)]
    for words in (["llvm-profdata", "merge", "-sparse", "-failure-mode=all", "-o", together, *counters],
                  ["llvm-cov", "export", "-summary-only", f"-instr-profile={together}", *objects]):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(done.stderr[-2000:])
            return {}
    here = os.getcwd() + "/"
    lines = {}
    for file in json.loads(done.stdout)["data"][0]["files"]:
        name = os.path.normpath(file["filename"]).removeprefix(here)
        count = file["summary"]["lines"]
        if name.startswith(("src/", "preload/")) and count["count"]:
            lines[name] = (count["covered"], count["count"])
    return lines


class Everything:
    """What has been run, and what came of it."""

    def __init__(self):
        self.progress = Progress()
        self.tests = []
        self.failed = []  # what is no test
        self.measured = 0

    def is_built(self, directory):
        self.progress.line(f"=== [{self.progress.time()}] {directory}: build")
        log = pathlib.Path(f"{directory}.log")
        with open(log, "wb") as output:
            commands = [["meson", "setup", directory, *OPTIONS[directory]]]
            if pathlib.Path(directory, "build.ninja").exists():
                commands.clear()
            # Everything; what is there for its tests alone, what they run.
            commands.append(["ninja", "-C", directory,
                             *([] if directory == "build" else ["meson-test-prereq"])])
            for words in commands:
                # (ccache, where it is there, keeps what uses precompiled headers only if told.)
                environment = ({"CCACHE_SLOPPINESS": "pch_defines,time_macros"} | os.environ
                               | COMPILERS.get(directory, {}))
                if subprocess.run(words, stdin=subprocess.DEVNULL, stdout=output, env=environment,
                                  stderr=subprocess.STDOUT, check=False).returncode != 0:
                    print(log.read_text(encoding="utf-8", errors="replace")[-8000:])
                    self.failed.append(f"{directory}: the build")
                    return False
        log.unlink()
        return True

    def run(self, directories, suites, **how):
        """In each of these build directories; those of several run side by side."""
        directories = [directory for directory in directories if self.is_built(directory)]
        tests = []
        for directory in directories:
            label = "" if directory == "build" else f"{directory.removeprefix('build-')}/"
            tests += [test for test in told_by(directory, suites, label, **how)
                      if test.expected or not test.is_doctest]
        if not tests:
            return
        self.progress.line(
            f"=== [{self.progress.time()}] {', '.join(directories)}: {', '.join(suites)}")
        tests.sort(key=lambda test: -test.priority)
        self.tests += tests
        run(tests, self.progress, self.tests,
            AT_A_TIME if directories == ["build"] else SANITIZED_AT_A_TIME)
        for test in tests:
            if any(test.failures()) or test.unsteady:
                self.progress.line(f"\n--- {test.name}: {test.log}")
                said = test.log.read_text(encoding="utf-8", errors="replace")
                print(said[max(said.find("= FAILURES ="), said.find("= ERRORS ="), 0):][:20000])
        self.try_again([test for test in tests if any(test.failures())])

    def try_again(self, failed):
        if len(failed) > SECOND_TRIES_MOST:
            return
        for test in failed:
            if second := test.again():
                self.progress.line(f"{SECOND_TRY}: {test.name}")
                run([second], self.progress, self.tests)
                if not any(second.failures()):
                    second.unsteady = [line.partition(": ")[2] for line in test.failures()]
                    self.tests[self.tests.index(test)] = second

    def measure_coverage(self):
        """Prints the lines that all tests together have run, of a build that counts. The cases
        were judged before: what fails for being counted is said, and no more."""
        directory = "build-coverage"
        if not self.is_built(directory):
            return
        shutil.rmtree(COUNTERS, ignore_errors=True)
        COUNTERS.mkdir()
        COUNTERS.chmod(0o777)
        make_files_writable_in(COUNTERS)  # programs of other users count, too
        os.environ["LLVM_PROFILE_FILE"] = f"{COUNTERS}/%m%c.profraw"  # of those compiled otherwise
        self.progress.line(f"=== [{self.progress.time()}] {directory}: all tests")
        tests = told_by(directory, (*THIS_KERNEL, "kernel2"), "coverage/",
                        lambda described: counted_part(described["suite"][0].partition(":")[2]))
        for test in tests:
            test.command = [word for word in test.command if word != "--second-try"]
        run(tests, self.progress, tests)
        counts = [sum(column) for column in zip(*(test.counts() for test in tests))]
        lines = lines_run(directory)
        if not lines:
            self.failed.append("line coverage: nothing was measured")
            return
        self.measured = 1
        total = [sum(column) for column in zip(*lines.values())]
        rooms = {}
        for file, (run_lines, all_lines) in lines.items():
            room = rooms.setdefault(file.rpartition("/")[0], [0, 0])
            room[0] += run_lines
            room[1] += all_lines
        print("Lines that were run:")
        for title, (run_lines, all_lines) in [*sorted(rooms.items()), ("all", total)]:
            print(f"    {title:16} {run_lines:5} of {all_lines:5}  {run_lines / all_lines:6.1%}")
        print("Least of them:")
        for file, (run_lines, all_lines) in sorted(
                lines.items(), key=lambda entry: entry[1][0] - entry[1][1])[:8]:
            print(f"    {file:32} {all_lines - run_lines:4} of {all_lines:4} were not")
        print(f"Line coverage: {total[0] / total[1]:.1%} of src/ and preload/, by {counts[0]} cases "
              f"that passed, {counts[1]} that did not, with counters in the code, and "
              f"{counts[2]} skipped.")

    def conclude(self):
        """Prints the summary; gives the exit status."""
        unsteady = [f"{test.name}: {name}" for test in self.tests for name in test.unsteady]
        failed = self.failed + [line for test in self.tests for line in test.failures()]
        reasons = {}
        for test in self.tests:
            for reason, count in test.reasons.items():
                reasons[reason] = reasons.get(reason, 0) + count
        skipped = [f"{count:4} {reason}" for reason, count in sorted(reasons.items())]
        self.progress.line("")
        for title, lines in (("Skipped", skipped),
                             ("Failed once, and passed at the second try", unsteady),
                             ("Failed", failed)):
            if lines:
                print(f"{title}:", *lines, sep="\n    ", end="\n\n")
        counts = [sum(column) for column in zip((0, 0, 0), *(test.counts() for test in self.tests))]
        counts[0] += self.measured
        counts[1] += len(self.failed)
        if not any(counts):
            print("Nothing ran: that is a failure.")
            counts[1] = 1
        print(self.progress.time(), "min")
        print("{} passed, {} failed, {} skipped".format(*counts))
        return int(counts[1] > 0 or counts[0] == 0)


def quickly(described):
    """What makes a test of meson's run what `quick` asks of it; None if nothing."""
    suite, part = described["suite"][0].partition(":")[2], described["name"].rpartition("-")[2]
    if suite != "lab":
        return ()
    return ("-k", QUICK, f"--shard={part}/{QUICK_PARTS}") if int(part) <= QUICK_PARTS else None


def selecting(names):
    """What makes a test of meson's run the cases whose name, or whose file's, has one of these."""
    def arguments(described):
        suite = described["suite"][0].partition(":")[2]
        if suite in names or any(name in described["name"] for name in names):
            return ()
        if suite == "unit":
            return ("--test-case=" + ",".join(f"*{name}*" for name in names),)
        return ("-k", " or ".join(names))
    return arguments


def main(words):
    everything = Everything()
    try:
        if words == ["quick"]:
            everything.run(["build"], THIS_KERNEL, arguments=quickly)
        elif words in ([], ["all"]):
            everything.run(["build"], THIS_KERNEL)
            if words:
                everything.run(["build-asan", "build-tsan"], THIS_KERNEL)
                everything.run(["build"], ("kernel2",))
                everything.measure_coverage()
        else:
            if "coverage" in words:
                words.remove("coverage")
                everything.measure_coverage()
            sanitized = [word for word in words if word in ("build-asan", "build-tsan")]
            if sanitized:
                everything.run(sanitized, THIS_KERNEL)
                words = [word for word in words if word not in sanitized]
            if words:
                known = (*THIS_KERNEL, "kernel2")
                suites = words if set(words) <= set(known) else set(words) & {"kernel2"} | set(THIS_KERNEL)
                everything.run(["build"], suites, arguments=selecting(words))
    except (KeyboardInterrupt, SystemExit):
        everything.failed.append("it was interrupted")
    return everything.conclude()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    sys.exit(main(sys.argv[1:]))
