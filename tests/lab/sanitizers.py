"""What a sanitizer says fails the test: the status of a program that is ended by a signal says
nothing, and the tests look at what they ask about."""

import re

import pytest

# (Not that leaks can't be looked for, as in a process under Landlock, which may not be traced.)
REPORT = re.compile(r"(Address|Thread|UndefinedBehavior)Sanitizer|runtime error:"
                    r"|LeakSanitizer(?!( has encountered a fatal error| does not work under ptrace))")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    report = (yield).get_result()
    said = report.capstdout + report.capstderr
    if report.passed and REPORT.search(said):
        report.outcome = "failed"
        report.longrepr = f"a sanitizer reports an error:\n{said}"
