"""The engine: batches of jobs through `AsyncLLM`, one vector a job."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vlmoe_model.checkpoint.directory import CheckpointDir, open_directory, resolve
from vlmoe_model.checkpoint.fingerprint import model_id, space_id
from vlmoe_model.checkpoint.weights import read_tensors
from vlmoe_model.inputs import Job
from vlmoe_model.precision import choose_dtype
from vlmoe_model.runner import count_parameters
from vlmoe_serve.engine.base import EngineFacts, EngineOptions
from vlmoe_serve.engine.vllm import settings, support
from vlmoe_serve.engine.warm_up import warm_up_batches

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

    from vlmoe_serve.engine.vllm.inputs import Request


class VllmEngine:
    """vLLM in processes of its own, and the loop that talks to it. The loop runs while a batch does."""

    def __init__(
        self, llm: "AsyncLLM", loop: asyncio.AbstractEventLoop, directory: CheckpointDir, facts: EngineFacts
    ) -> None:
        from vlmoe_serve.engine.vllm.inputs import Requests

        self.facts = facts
        self._llm = llm
        self._loop = loop
        self._config = directory.config
        self._requests = Requests(directory.config)
        self._num_requests = 0

    def warm_up_batches(self) -> Sequence[Sequence[Job]]:
        """Every head once, then what shows how costs grow."""
        return warm_up_batches(self._config)

    def run(self, jobs: Sequence[Job]) -> Sequence[npt.NDArray[np.float32]]:
        """All jobs at once; vLLM cuts its steps."""
        from vllm.v1.engine.exceptions import EngineDeadError

        requests = self._requests.of(jobs)
        try:
            return self._loop.run_until_complete(self._all(requests))
        except EngineDeadError as error:
            # the supervisor starts all of it again
            raise SystemExit(f"vLLM's processes have to start again: {error}") from error

    async def _all(self, requests: Sequence["Request"]) -> list[npt.NDArray[np.float32]]:
        return await asyncio.gather(*map(self._one, requests))

    async def _one(self, request: "Request") -> npt.NDArray[np.float32]:
        self._num_requests += 1
        prompt, params = request
        values: npt.NDArray[np.float32] | None = None
        async for output in self._llm.encode(prompt, params, str(self._num_requests)):
            values = output.outputs.data.numpy()
        if values is None:
            raise RuntimeError("vLLM gave no output for a request")
        return values

    def beat(self) -> None:
        """Ask every worker."""
        self._loop.run_until_complete(self._llm.collective_rpc("check_health"))

    def report(self) -> None:
        """Nothing: its own metrics tell of its workers."""

    def warmed_up(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """End vLLM's processes."""
        self._llm.shutdown()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


def load(options: EngineOptions) -> VllmEngine:
    """Load a checkpoint into vLLM.

    Raises:
        ValueError: a bad checkpoint, or something that vLLM cannot do.
    """
    directory = open_directory(resolve(options.path))
    config = directory.config
    if not config.heads:
        raise ValueError(f"{directory.path}: the checkpoint has no head, so there is nothing to serve")
    # before the first import of vLLM, which reads them
    os.environ.update({**settings.environment(options.threads), **os.environ})
    from vllm.platforms import current_platform

    device = current_platform.device_type
    if options.device not in ("auto", device):
        raise ValueError(f"device {options.device} was asked for, but this vLLM is made for {device}")
    dtype = choose_dtype(options.dtype, device)
    if dtype not in settings.DTYPES or config.expert_weights != "float":
        raise ValueError("int8 experts run in our own engine only: --engine torch")
    args = settings.engine_args(options, config, device, dtype)
    support.check(config, device, args["tensor_parallel_size"])
    from vlmoe_serve.engine.vllm.plugin import register

    register()
    with ThreadPoolExecutor(1) as pool:
        ids = pool.submit(lambda: (model_id(directory), space_id(directory)))
        llm, loop = _start(args)
    model, space = ids.result()
    facts = EngineFacts(
        model_id=model,
        space_id=space,
        logit_scale=_logit_scale(directory),
        dtype=dtype,
        device=device,
        num_parameters=count_parameters(config),
        patch_size=config.patch_size,
        backend=f"vllm {_version()}",
    )
    return VllmEngine(llm, loop, directory, facts)


def _start(args: dict[str, Any]) -> tuple["AsyncLLM", asyncio.AbstractEventLoop]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    loop = asyncio.new_event_loop()

    async def make() -> AsyncLLM:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**args))

    try:
        return loop.run_until_complete(make()), loop
    except RuntimeError as error:
        raise ValueError(f"vLLM did not start: {error}") from error
    except BaseException:
        loop.close()
        raise


def _logit_scale(directory: CheckpointDir) -> float:
    """Factor between cosine and logit of the first contrastive head; 1 without one."""
    for head in directory.config.heads:
        if head.task == "contrastive":
            ((_, tensor),) = read_tensors([directory.tensors[f"heads.{head.name}.logit_scale"]])
            return float(tensor.float().exp())
    return 1.0


def _version() -> str:
    import vllm

    return str(vllm.__version__)
