from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vlmoe_model.inputs import Example, Job
from vlmoe_serve.engine.passes import run_apart


def test_jobs_of_each_kind_run_by_themselves_and_come_back_in_order() -> None:
    jobs = [Job(head, Example(tokens=np.array([n], np.int32))) for n, head in enumerate("abacbba")]
    seen: list[str] = []

    def run(part: Sequence[Job]) -> list[npt.NDArray[np.float32]]:
        seen.append("".join(job.head for job in part))
        return [np.array(job.example.tokens, np.float32) for job in part]

    assert [float(out[0]) for out in run_apart(jobs, lambda job: job.head, run)] == list(range(7))
    assert seen == ["aaa", "bbb", "c"]
    run_apart(jobs, lambda job: 0, run)
    assert seen[3:] == ["abacbba"]


def test_no_jobs_are_one_pass() -> None:
    """A rank without jobs takes part all the same."""
    calls: list[int] = []

    def run(part: Sequence[Job]) -> list[npt.NDArray[np.float32]]:
        calls.append(len(part))
        return []

    assert run_apart([], lambda job: job.head, run) == []
    assert calls == [0]
