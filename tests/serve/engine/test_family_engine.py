"""Several checkpoints in one process, and one that leaves."""

import asyncio
import gc
import os
import shutil
import signal
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmoe_model.checkpoint.delta import save_delta
from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.checkpoint.weights import load_state
from vlmoe_model.inputs import Example, Job
from vlmoe_model.runner import Runner
from vlmoe_serve.engine import FAMILY
from vlmoe_serve.engine.base import EngineFacts, EngineOptions, member_head
from vlmoe_serve.engine.family_engine import FamilyEngine, load
from vlmoe_serve.engine.supervisor import Supervisor, SupervisorOptions

from ..waiting import PATIENCE_S


@pytest.fixture
def paths(checkpoint: Path, tmp_path: Path) -> list[Path]:
    """A base and two deltas that froze their experts."""
    base = Path(shutil.copytree(checkpoint, tmp_path / "base"))
    directory, state = open_directory(base), load_state(base)
    found = [base]
    for number in (1, 2):
        frozen = (".0.ffn.", ".2.ffn.")
        changed = {
            name: tensor if any(part in name for part in frozen) else tensor + 0.05 * number
            for name, tensor in state.items()
        }
        found.append(tmp_path / f"delta-{number}")
        save_delta(found[-1], base, directory.config, changed, directory.tokenizer(), directory.labels)
    return found


@pytest.fixture
def thawed() -> Iterator[None]:
    """What a test leaves with the collector is as it was."""
    yield
    gc.unfreeze()


def options(paths: list[Path], left: tuple[int, ...] = ()) -> EngineOptions:
    return EngineOptions(paths[0], dtype="fp32", siblings=tuple(paths[1:]), left=left)


def question(place: int) -> Job:
    tokens = np.array([2, 7, 9, 3], np.int32)
    return Job(member_head(place, "questions"), Example(np.full((16, 16, 3), 90, np.uint8), tokens))


def answers(family: FamilyEngine, *places: int) -> list[list[float]]:
    return [output.tolist() for output in family.run([question(place) for place in places])]


def modules(family: FamilyEngine, place: int) -> set[torch.nn.Module]:
    runner = family._members[place].runner
    assert isinstance(runner, Runner)
    return set(runner.network.modules())


@pytest.mark.usefixtures("thawed")
@pytest.mark.parametrize("place", [0, 1, 2])
def test_who_leaves_takes_its_own_tensors_along_and_nobody_elses(paths: list[Path], place: int) -> None:
    family = load(options(paths))
    before, others = answers(family, 0, 1, 2), [other for other in range(3) if other != place]
    assert before[0] != before[1] != before[2]
    theirs = set().union(*(modules(family, other) for other in others))
    assert modules(family, place) & theirs, "they share their experts"
    own = [weakref.ref(module) for module in modules(family, place) - theirs]
    assert len(own) > 10
    # as the worker does when it has loaded
    gc.freeze()
    family.leave([place])
    assert [module() for module in own] == [None] * len(own)
    assert answers(family, *others) == [before[other] for other in others]
    assert family.report() is not None
    family.beat()
    # told again with another
    family.leave([place, others[0]])
    assert answers(family, others[1]) == [before[others[1]]]
    with pytest.raises(KeyError):
        answers(family, place)


@pytest.mark.usefixtures("thawed")
def test_who_has_left_is_not_loaded_and_keeps_its_place(paths: list[Path]) -> None:
    whole = load(options(paths))
    shutil.rmtree(paths[1])
    part = load(options(paths, left=(1,)))
    assert part.facts.members == (whole.facts.members[0], None, whole.facts.members[2])
    heads = {job.head for jobs in part.warm_up_batches() for job in jobs}
    assert {head.partition("/")[0] for head in heads} == {"0", "2"}
    assert answers(part, 2, 0) == answers(whole, 2, 0)
    assert whole.facts.resembles(part.facts, [1])
    assert not whole.facts.resembles(part.facts)


def test_one_checkpoint_resembles_only_itself() -> None:
    facts = EngineFacts("m-1", "s-1", 1.0, "fp32", "cpu", 0, 2, "toy")
    assert facts.resembles(EngineFacts("m-1", "s-1", 1.0, "fp32", "cpu", 0, 2, "another"))
    assert not facts.resembles(EngineFacts("m-2", "s-1", 1.0, "fp32", "cpu", 0, 2, "toy"))


def test_an_engine_comes_back_without_those_who_left_though_their_files_are_gone(
    paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        supervisor = Supervisor(FAMILY, options(paths), SupervisorOptions(max_pause_s=0.2))
        async with asyncio.timeout(PATIENCE_S):
            info = await supervisor.start()
            try:
                before = (await supervisor.run([question(0), question(2)])).outputs
                supervisor.leave(1)
                shutil.rmtree(paths[1])
                assert (await supervisor.run([question(0), question(2)])).outputs == before
                assert supervisor.pid is not None
                os.kill(supervisor.pid, signal.SIGKILL)
                while supervisor.num_restarts == 0:
                    await asyncio.sleep(0.01)
                assert (await supervisor.run([question(0), question(2)])).outputs == before
                assert supervisor.num_restarts == 1
                assert supervisor.info == info
            finally:
                await supervisor.stop()

    asyncio.run(main())
    assert "did not come back" not in caplog.text
