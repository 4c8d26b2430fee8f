"""Long waits, overlapped: a test that mostly waits for a clock of the kernel's does so on a path
of its own from the start of the session on, while the other tests run:

    @pytest.mark.background("label of the path", scenario)
    @pytest.mark.needs(...)
    def test_something(background):
        assert background.result() == ...

Tests with the same label share what its scenario found, which runs once. The scenarios of tests
that are `quiet` as well start together, when the first of those tests does.
"""

import threading

import firewall
import programs


class Background:
    """`scenario(stand)` runs in a thread; result() waits for it and gives or raises what it did."""

    def __init__(self, path, scenario):
        self.value = self.problem = None
        self.said, self.complaints = [], []
        self.path, self.scenario = path, scenario
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        stand = programs.Stand(self.path, self.said.append)
        try:
            programs.stage_build()
            firewall.set_profile(self.path, "strict")
            self.value = self.scenario(stand)
            self.complaints = stand.complaints()
        except BaseException as problem:  # the test raises it
            self.problem = problem
        finally:
            stand.clear()

    def result(self):
        self.thread.join()
        print(*self.said, sep="\n")
        if self.problem:
            raise self.problem
        return self.value
