import asyncio
from collections.abc import Collection, Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vlmoe_model.inputs import Example, Job
from vlmoe_serve.engine.failures import BatchFailed, EngineDied, EngineDown, EngineFailure
from vlmoe_serve.engine.protocol import BatchDone
from vlmoe_serve.engine.recovery import GroupDone, run_groups

GOOD, KILLS, RAISES = 0, 1, 2


class Scripted:
    """An engine that dies of some jobs, raises on others, and is killed from outside in given runs."""

    def __init__(
        self, killed_in: Sequence[int] = (), innocent_in: Sequence[int] = (), down_from: int = 10**6
    ) -> None:
        self.runs: list[list[int]] = []
        self._killed_in = killed_in
        self._innocent_in = innocent_in
        self._down_from = down_from

    async def run(self, jobs: Sequence[Job]) -> BatchDone:
        number = len(self.runs)
        kinds = [int(token_of(job)[0]) for job in jobs]
        self.runs.append(kinds)
        if number >= self._down_from:
            raise EngineDown("down")
        if number in self._innocent_in:
            raise EngineDied("died of another batch", suspect=False)
        if number in self._killed_in or KILLS in kinds:
            raise EngineDied("died", suspect=True)
        if RAISES in kinds:
            raise BatchFailed("raised")
        return BatchDone(number, tuple(token_of(job).astype(np.float32).tobytes() for job in jobs), 1.0)


def token_of(job: Job) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    assert job.example.tokens is not None
    return job.example.tokens


def groups_of(kinds: Sequence[Sequence[int]]) -> list[tuple[Job, ...]]:
    return [
        tuple(
            Job("toy", Example(tokens=np.array([kind, row, column], np.int32)))
            for column, kind in enumerate(group)
        )
        for row, group in enumerate(kinds)
    ]


def recover(engine: Scripted, kinds: Sequence[Sequence[int]], unwanted: Collection[int] = ()) -> list[object]:
    results = asyncio.run(run_groups(engine, groups_of(kinds), lambda index: index not in unwanted))
    return [
        [output.tolist() for output in result.outputs] if isinstance(result, GroupDone) else result
        for result in results
    ]


def right(kinds: Sequence[int], row: int) -> list[list[int]]:
    return [[kind, row, column] for column, kind in enumerate(kinds)]


kinds_lists = st.lists(
    st.lists(st.sampled_from([GOOD, GOOD, GOOD, KILLS, RAISES]), min_size=1, max_size=3),
    min_size=1,
    max_size=6,
)


@given(kinds_lists, st.sets(st.integers(0, 5)), st.sets(st.integers(0, 3)))
def test_the_guilty_fail_and_their_neighbours_are_answered(
    kinds: list[list[int]], unwanted: set[int], innocent_in: set[int]
) -> None:
    engine = Scripted(innocent_in=sorted(innocent_in))
    results = recover(engine, kinds, unwanted)
    for row, (group, result) in enumerate(zip(kinds, results, strict=True)):
        if row in unwanted:
            assert result is None
        elif KILLS in group or RAISES in group:
            assert isinstance(result, EngineFailure)
        else:
            assert result == right(group, row)


def test_one_death_costs_one_more_run() -> None:
    engine = Scripted(killed_in=[0])
    assert recover(engine, [[GOOD], [GOOD, GOOD]]) == [right([GOOD], 0), right([GOOD, GOOD], 1)]
    assert engine.runs == [[GOOD] * 3] * 2


def test_a_poisonous_request_runs_twice_in_company_and_twice_alone() -> None:
    engine = Scripted()
    recover(engine, [[KILLS], [GOOD]])
    assert engine.runs == [[KILLS, GOOD], [KILLS, GOOD], [KILLS], [GOOD], [KILLS]]


def test_a_poisonous_request_alone_in_its_batch_runs_twice() -> None:
    engine = Scripted()
    assert isinstance(recover(engine, [[KILLS]])[0], EngineDied)
    assert engine.runs == [[KILLS]] * 2


def test_three_kills_from_outside_cost_nobody_an_answer() -> None:
    engine = Scripted(killed_in=[0, 1, 3])
    assert recover(engine, [[GOOD], [GOOD]]) == [right([GOOD], 0), right([GOOD], 1)]


def test_what_raised_is_not_run_in_company_again() -> None:
    engine = Scripted()
    recover(engine, [[GOOD], [RAISES]])
    assert engine.runs == [[GOOD, RAISES], [GOOD], [RAISES]]


def test_an_engine_that_does_not_come_back_fails_all() -> None:
    results = recover(Scripted(killed_in=[0], down_from=1), [[GOOD], [GOOD]])
    assert all(isinstance(result, EngineDown) for result in results)


def test_nobody_waits_so_nothing_runs() -> None:
    engine = Scripted()
    assert recover(engine, [[GOOD], [GOOD]], {0, 1}) == [None, None]
    assert engine.runs == []
