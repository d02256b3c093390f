"""A checkpoint ready to answer: load once, then jobs in, arrays out."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vlmoe_kernels import backend
from vlmoe_kernels.choice import choose_backend
from vlmoe_kernels.collectives import Group
from vlmoe_kernels.offload.storage import ExpertMemory
from vlmoe_model.checkpoint.directory import CheckpointDir, open_directory, resolve
from vlmoe_model.checkpoint.weights import load_state
from vlmoe_model.config import ModelConfig
from vlmoe_model.dispatch.expert_parallel import Split, nearest_copy
from vlmoe_model.dispatch.holdings import Holdings
from vlmoe_model.explanation import to_numbers
from vlmoe_model.feed_forward import FeedForward, ObserveLoad
from vlmoe_model.heads.contrastive import ContrastiveHead
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.offloading import Offloading
from vlmoe_model.packing import Packed, pack
from vlmoe_model.precision import DTYPES, INT8, Dtype, choose_device, choose_dtype, choose_dtype_for
from vlmoe_model.routing import Routing
from vlmoe_model.routing.explain import routes_of
from vlmoe_model.routing_mode import DEFAULT, RoutingMode
from vlmoe_model.sharing import Layer, adopt, sources_of


class Runner:
    """The network of one checkpoint, packed for inference.

    An output depends on its job alone: on CPU bit for bit the same in every batch, at equal dtype and threads, unless
    the checkpoint asks for an eval capacity, or the runner or the job for a routing mode with one. The runner takes the
    network's weights over. mode: how jobs are routed that do not say.
    """

    def __init__(
        self,
        directory: CheckpointDir,
        network: VLMoE,
        *,
        device: str,
        dtype: str,
        backend_name: str,
        group: Group | None = None,
        mode: RoutingMode = DEFAULT,
        offloading: Offloading | None = None,
    ) -> None:
        self.directory = directory
        self.config: ModelConfig = directory.config
        self.device = device
        self.dtype = dtype
        self.backend = backend_name
        self.mode = mode
        # of the whole model, whatever part of it lies here
        self.num_parameters = count_parameters(directory.config)
        # what other checkpoints of a family may use as theirs
        self.layers: list[Layer] = []
        self._group = group
        self._offloading = offloading
        self._network = network.eval().requires_grad_(False).to(device)
        # of rows, and of all matrices but those of int8 experts
        self.row_dtype = DTYPES[choose_dtype("auto", device) if dtype == INT8 else dtype]
        if dtype == INT8:
            network.quantise_experts()
        network.pack(backend(backend_name), self.row_dtype)
        if group is None:
            network.record(backend(backend_name), torch.device(device))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "cpu",
        dtype: Dtype = "auto",
        backend: str = "auto",
        threads: int | None = None,
        group: Group | None = None,
        holdings: Holdings | None = None,
        split: Split = nearest_copy,
        movable: bool = False,
        family: Sequence["Runner"] = (),
        mode: RoutingMode = DEFAULT,
        expert_memory: int = 0,
    ) -> "Runner":
        """Read a checkpoint directory (or `demo`).

        Args:
            path: directory, or a name that `resolve` knows.
            device: `cpu`, `cuda`, or `auto` for the GPU where there is one.
            dtype: precision of the encoder's matrices; `auto` is bf16 where the processor multiplies it natively, and
                `int8` the same with the matrices of mixture blocks in int8, as `auto` is for a checkpoint of such.
            backend: kernels by name, or `auto` for the best there are for the device.
            threads: CPU threads; None leaves torch's choice.
            group: ranks that share the experts; every one loads its own part and runs when the others do.
            holdings: which rank of the group holds which experts; None for even shares without copies.
            split: of tokens over an expert's copies, the same on every rank.
            movable: a group's experts may be moved later (`moving.py`).
            family: runners in this process; feed-forward layers that come from the same bytes as theirs are theirs.
            mode: how jobs are routed that do not say.
            expert_memory: bytes that experts of mixtures may take, the others being in a file; 0 for no limit.

        Raises:
            CheckpointError: a file is missing, broken, foreign or of the wrong shape.
            ValueError: an unknown device, dtype or backend, one that cannot be had here, or holdings for another
                network or another number of ranks; or experts that cannot be offloaded so.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        device = choose_device(device)
        backend_name = choose_backend(backend, device)
        directory = open_directory(resolve(path))
        chosen = choose_dtype_for(directory.config, dtype, device)
        if chosen == INT8 and movable:
            raise ValueError("experts in int8 cannot be moved between ranks: load them as bf16 or fp32")
        if chosen == INT8 and expert_memory:
            raise ValueError("experts in int8 cannot be offloaded: load them as bf16 or fp32")
        with torch.device("meta"):
            network = VLMoE(directory.config)
        expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        offloading = None
        if expert_memory:
            if group is not None or device != "cpu":
                raise ValueError("experts can be offloaded on CPU and with one rank only")
            offloading = Offloading(directory, backend_name, DTYPES[chosen], expert_memory)
            offloading.attach(network)
        sources = sources_of(directory, network) if group is None and offloading is None else {}
        made = (device, chosen, backend_name, dataclasses.replace(directory.config, heads=()))
        adopted = adopt(network, sources, made, [layer for one in family for layer in one.layers])
        if group is None:
            skip = adopted if offloading is None else offloading.modules
            state = load_state(directory, expected=expected, skip=skip)
        else:
            holdings = holdings or Holdings.even(directory.config, group.size)
            network.share_experts(group, holdings, split, movable=movable)
            state = load_state(directory, expected=expected, experts=holdings.of(group.rank))
        # popped, so that no tensor outlives its cast, or later its packed copy
        own = [name for name in expected if name in state]
        network.load_state_dict(
            {name: _loaded(state.pop(name)) for name in own}, assign=True, strict=not adopted
        )
        runner = cls(
            directory,
            network,
            device=device,
            dtype=chosen,
            backend_name=backend_name,
            group=group,
            mode=mode,
            offloading=offloading,
        )
        for name, source in sources.items():
            module = network.get_submodule(name)
            assert isinstance(module, FeedForward)
            runner.layers.append(Layer(source, made, module))
        return runner

    @property
    def logit_scale(self) -> float:
        """Factor between cosine and logit of the contrastive head; 1 without one."""
        for head in self._network.heads.values():
            if isinstance(head, ContrastiveHead):
                return float(head.logit_scale.exp())
        return 1.0

    @property
    def network(self) -> VLMoE:
        """What computes, packed."""
        return self._network

    def mixture(self, block: int) -> FeedForward:
        """The feed-forward layer of a block."""
        module = self._network.get_submodule(f"encoder.blocks.{block}.ffn")
        assert isinstance(module, FeedForward)
        return module

    @property
    def group(self) -> Group | None:
        """The ranks that share the experts, if there are several."""
        return self._group

    def take_expert_memory(self) -> ExpertMemory | None:
        """What became of the uses of offloaded experts since the last call; None where none are offloaded."""
        return None if self._offloading is None else self._offloading.storage.take()

    def observe_load(self, observe: ObserveLoad) -> None:
        """See `VLMoE.observe_load`."""
        self._network.observe_load(observe)

    @torch.inference_mode()
    def prepare(self) -> None:
        """Do now what the first batches of every size would wait for."""
        if self._network.replay is not None:
            self._network.replay.prepare()

    @torch.inference_mode()
    def run(
        self,
        jobs: Sequence[Job],
        observe: Callable[[Packed, Sequence[Routing]], None] | None = None,
    ) -> list[npt.NDArray[np.float32]]:
        """One forward pass over jobs of any heads and shapes.

        Args:
            jobs: what to answer, all in one routing mode.
            observe: told afterwards what the routers of every mixture block chose.

        Returns:
            Per job a float32 vector: logits [labels], or for a contrastive head a unit embedding [out_dim]; behind it
            its routes (`explanation.py`), where the job asks for them. A rank of a group takes part with no jobs of
            its own when the others have some.

        Raises:
            ValueError: a job's inputs do not fit its head, or jobs of several routing modes.
            KeyError: a job names an unknown head.
            GroupError: another rank was lost.
        """
        if not jobs and self._group is not None:
            self._network.take_part(self.device)
            return []
        modes = {self.mode if job.mode is None else job.mode for job in jobs} or {self.mode}
        if len(modes) > 1:
            raise ValueError(
                f"one forward pass has one routing mode, got {sorted(mode.name for mode in modes)}"
            )
        packed = pack(jobs, self.config, self.device, modes.pop())
        log: list[Routing] | None = [] if observe is not None or any(job.explain for job in jobs) else None
        rows = [row for output in _fetch(self._network(packed, log)) for row in output]
        if observe is not None and log is not None:
            observe(packed, log)
        results: list[npt.NDArray[np.float32]] = [rows[0]] * len(jobs)
        for place, (row, job) in enumerate(zip(rows, packed.jobs, strict=True)):
            if jobs[job].explain and log is not None:
                row = np.concatenate([row, to_numbers(routes_of(packed, log, self.config, place))])
            results[job] = row
        return results


def _fetch(outputs: Sequence[Tensor]) -> list[npt.NDArray[np.float32]]:
    """All outputs of a batch on the host, in one transfer: the only point that waits for a GPU."""
    flat: npt.NDArray[np.float32] = torch.cat([output.float().flatten() for output in outputs]).cpu().numpy()
    ends = np.cumsum([output.numel() for output in outputs])
    parts = np.split(flat, ends[:-1])
    return [part.reshape(output.shape) for part, output in zip(parts, outputs, strict=True)]


def count_parameters(config: ModelConfig) -> int:
    """Parameters of the whole network."""
    with torch.device("meta"):
        return sum(p.numel() for p in VLMoE(config).parameters())


def _loaded(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.int8 else tensor.float()
