"""A process of low priority that plans placements for rank 0.

python -P -m vlmoe_serve.engine.planning PARENT_PID      pickled `Question`s in, pickled `Revision`s out

Both ends are our own processes and the pipes are anonymous, so pickle is safe here.
"""

import contextlib
import dataclasses
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

from vlmoe_serve.engine.lifetime import die_with
from vlmoe_serve.placement.rebalancing import Question, Revision, revise

# at 19, ranks that are busy on every core would leave it nothing
NICE = 10
_MODULE = "vlmoe_serve.engine.planning"


class Planning:
    """The process, seen from rank 0. Make it in the thread that lives as long as this process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        # waits for the answer, so that nobody else has to
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="planning")

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def ask(self, question: Question) -> "Future[Revision]":
        """Have it planned. The future fails with EOFError or OSError when the process is gone."""
        return self._thread.submit(self._ask, question)

    def _ask(self, question: Question) -> Revision:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump(question, self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()
        return cast(Revision, pickle.load(self._process.stdout))

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._thread.shutdown()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def toll(num_cores: int, num_ranks: int, threads: int) -> float:
    """Seconds that ranks do without for each that a plan computes: none where a core is left for it, and one for doors.

    Args:
        num_cores: of the host.
        num_ranks: on the host. They wait for each other, so all do without what one does.
        threads: of a rank.
    """
    return 0.0 if num_cores >= num_ranks * threads + 2 else 1.0 / threads


def main(argv: list[str]) -> int:
    """Answer until there are no more questions."""
    die_with(int(argv[0]))
    os.nice(NICE)
    # whatever a library prints must not come between the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while True:
        try:
            question = pickle.load(sys.stdin.buffer)
        except EOFError:
            return 0
        begin_s = time.process_time()
        revision = revise(question)
        timed = dataclasses.replace(revision, planned_s=time.process_time() - begin_s)
        pickle.dump(timed, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
