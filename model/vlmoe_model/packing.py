"""Jobs to tensors without padding: sequences of one shape stand together, and every token is a real one.

A packed batch is a list of runs. All sequences of a run have the same head, the same number of text tokens and the
same image size, so inside a run everything is dense; runs lie one behind the other on the token axis. The order is
fixed by the shapes, and `Packed.jobs` leads each output back to its job.
"""

# T = tokens of the batch, N = sequences of a run, S = image side in pixels, L = text tokens, P = pool

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vlmoe_kernels import RoutePlan, Run, make_plan
from vlmoe_model.config import ImageSpec, ModelConfig
from vlmoe_model.errors import InputError
from vlmoe_model.inputs import Job
from vlmoe_model.routing_mode import DEFAULT, RoutingMode

# feed-forward pools, in the order of their groups
POOLS = ("V", "T", "VL")
VISION, TEXT, PAIR = range(3)
# up to this size what is known of a batch's tokens is kept for the next one of its shapes: some 100 kB
_KEPT_TOKENS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class SequenceRun:
    """Sequences of one shape.

    images: float32 [N, 3, S, S], normalised; None without images.
    tokens: int64 [N, L]; None without text.
    """

    head: str
    num_sequences: int
    num_text: int
    num_image: int
    text_first: bool
    images: Tensor | None
    tokens: Tensor | None

    @property
    def length(self) -> int:
        """Tokens of one sequence."""
        return self.num_text + self.num_image

    @property
    def text_start(self) -> int:
        """Where the text begins in a sequence."""
        return 0 if self.text_first else self.num_image

    @property
    def image_start(self) -> int:
        """Where the image ([I_CLS], then patches) begins in a sequence."""
        return self.num_text if self.text_first else 0


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """Which pool each token belongs to.

    pool_T: int64 [T]. onehot_TP: the same as float32 rows. rows: the tokens of each pool. plan: that of a dense layer.
    back_T: int64 [T], where each token stands in the pools' rows one behind the other; None: where it is in the batch.
    """

    pool_T: Tensor
    onehot_TP: Tensor
    rows: tuple[Tensor, ...]
    plan: RoutePlan
    back_T: Tensor | None

    @classmethod
    def of(cls, pool_T: Tensor, num_pools: int) -> "Tokens":
        """Index the tokens of every pool."""
        plan = make_plan(pool_T.unsqueeze(1), None, num_pools)
        back_T = plan.slots_TK[:, 0] if max(plan.sizes) < len(pool_T) else None
        onehot_TP = F.one_hot(pool_T, num_pools).float()
        return cls(pool_T, onehot_TP, torch.split(plan.order_R, list(plan.sizes)), plan, back_T)

    def to(self, device: torch.device) -> "Tokens":
        """The same on a device. Counting happens before, on the host, where nothing waits for it."""
        rows = tuple(rows_P.to(device) for rows_P in self.rows)
        back_T = None if self.back_T is None else self.back_T.to(device)
        return Tokens(self.pool_T.to(device), self.onehot_TP.to(device), rows, self.plan.to(device), back_T)


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """One batch.

    jobs[i]: which job the i-th packed sequence is. modality: pools V and T, for what is below `vl_start`, and for
    attention. fused: pools V, T and VL, for the feed-forward layers from `vl_start` on; both are on the host until `on`
    moves them. mode: how all of them route. table: of attention, in place of the runs, in a recording (`replay.py`).
    """

    runs: tuple[SequenceRun, ...]
    jobs: tuple[int, ...]
    modality: Tokens
    fused: Tokens
    mode: RoutingMode = DEFAULT
    table: Tensor | None = None

    def on(self, device: torch.device) -> "Packed":
        """The same with its tokens' pools on that device."""
        if self.modality.pool_T.device == device:
            return self
        return dataclasses.replace(self, modality=self.modality.to(device), fused=self.fused.to(device))

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole batch."""
        return self.modality.pool_T.shape[0]

    @property
    def attention_runs(self) -> tuple[Run, ...]:
        """What attention needs to know of the runs."""
        return tuple(Run(run.num_sequences, run.length) for run in self.runs)


def pack(
    jobs: Sequence[Job],
    config: ModelConfig,
    device: torch.device | str = "cpu",
    mode: RoutingMode = DEFAULT,
) -> Packed:
    """Sort jobs into runs of equal shape, all to be routed in one mode.

    Raises:
        ValueError: no jobs.
        InputError: an image or a text that its head does not take.
        KeyError: a job names an unknown head.
    """
    if not jobs:
        raise ValueError("a batch needs at least one job")
    members: dict[tuple[str, int, int], list[int]] = {}
    for index, job in enumerate(jobs):
        check_job(job, config)
        image, tokens = job.example.image, job.example.tokens
        size = 0 if image is None else image.shape[0]
        members.setdefault((job.head, 0 if tokens is None else len(tokens), size), []).append(index)
    runs, order = [], []
    for key in sorted(members):
        runs.append(_run(key, [jobs[i] for i in members[key]], config, device))
        order += members[key]
    return assemble(runs, order, mode)


def check_job(job: Job, config: ModelConfig) -> None:
    """A prepared job has these shapes; what a bad one would do inside the network, nobody could read.

    Raises:
        InputError: an image or a text that its head does not take.
        KeyError: it names an unknown head.
    """
    head, image, tokens = config.head(job.head), job.example.image, job.example.tokens
    if image is not None:
        wanted = () if head.image is None else (head.image.size, head.image.size, 3)
        if image.shape != wanted:
            takes = f"images of {list(wanted)}" if wanted else "no images"
            raise InputError(f"head {head.name!r} takes {takes}, got one of {list(image.shape)}")
    if tokens is not None:
        if not 1 <= len(tokens) <= head.max_text:
            takes = f"texts of 1 to {head.max_text} tokens" if head.max_text else "no texts"
            raise InputError(f"head {head.name!r} takes {takes}, got one of {len(tokens)}")
        if tokens.min() < 0 or tokens.max() >= config.vocab_size:
            raise InputError(f"token ids must be in [0, {config.vocab_size - 1}], got {tokens.tolist()}")


def assemble(runs: Sequence[SequenceRun], jobs: Sequence[int], mode: RoutingMode = DEFAULT) -> Packed:
    """A batch from finished runs; the trainer, which augments images as tensors, enters here."""
    shapes = tuple((run.num_sequences, run.num_text, run.num_image, run.text_first) for run in runs)
    # small batches are often alike, and to index their tokens takes as long as a block
    small = sum(run.num_sequences * run.length for run in runs) <= _KEPT_TOKENS
    index = _kept_index if small else _index
    # what was made under inference mode must not reach a backward
    modality, fused = index(shapes, torch.is_inference_mode_enabled())
    return Packed(tuple(runs), tuple(jobs), modality, fused, mode)


def _index(shapes: tuple[tuple[int, int, int, bool], ...], inference: bool) -> tuple[Tokens, Tokens]:
    """The tokens of runs of these shapes, by modality and with the fused pool. inference: whether under that mode."""
    modality_T, fused_T = [], []
    for num_sequences, num_text, num_image, text_first in shapes:
        parts = [torch.full((num_text,), TEXT), torch.full((num_image,), VISION)]
        sequence = torch.cat(parts if text_first else parts[::-1])
        modality_T.append(sequence.repeat(num_sequences))
        is_pair = num_text > 0 and num_image > 0
        fused_T.append(torch.full_like(modality_T[-1], PAIR) if is_pair else modality_T[-1])
    return Tokens.of(torch.cat(modality_T), len(POOLS) - 1), Tokens.of(torch.cat(fused_T), len(POOLS))


_kept_index = functools.lru_cache(maxsize=64)(_index)


def _run(
    key: tuple[str, int, int], jobs: Sequence[Job], config: ModelConfig, device: torch.device | str
) -> SequenceRun:
    head, num_text, size = key
    images = tokens = None
    if size:
        stacked = [job.example.image for job in jobs if job.example.image is not None]
        images = normalise(_stacked(stacked, torch.uint8, torch.device(device)), config, head)
    if num_text:
        texts = [job.example.tokens for job in jobs if job.example.tokens is not None]
        tokens = _stacked(texts, torch.int64, torch.device(device))
    num_image = (size // config.patch_size) ** 2 + 1 if size else 0
    return SequenceRun(head, len(jobs), num_text, num_image, config.order == "text_first", images, tokens)


def _stacked(arrays: Sequence[npt.NDArray[Any]], dtype: torch.dtype, device: torch.device) -> Tensor:
    """One behind the other, on the device."""
    # page-locked memory, of which torch keeps some: a GPU fetches it without a further copy
    shape, pinned = (len(arrays), *arrays[0].shape), device.type == "cuda"
    on_host = torch.empty(shape, dtype=dtype, pin_memory=pinned)
    np.stack(arrays, out=on_host.numpy())
    return on_host.to(device, non_blocking=True)


def normalise(images_NSS3: Tensor, config: ModelConfig, head: str) -> Tensor:
    """uint8 [N, S, S, 3] -> float32 [N, 3, S, S], by the mean and deviation of the head.

    Raises:
        ValueError: the head takes no images.
    """
    spec = config.head(head).image
    if spec is None:
        raise ValueError(f"head {head!r} takes no images")
    if images_NSS3.device.type == "cpu":
        # a byte has 256 values: to look them up takes less than to compute them
        table, images = _values(spec), images_NSS3.numpy()
        channels = [np.take(table[c], images[..., c]) for c in range(3)]
        return torch.from_numpy(np.stack(channels, axis=1))
    return normalised_by_formula(images_NSS3, spec)


def normalised_by_formula(images_NSS3: Tensor, spec: ImageSpec) -> Tensor:
    """The same on any device, number by number."""
    mean, std = _moments(spec, images_NSS3.device)
    return ((images_NSS3.float() / 255.0 - mean) / std).permute(0, 3, 1, 2).contiguous()


@functools.lru_cache(maxsize=64)
def _moments(spec: ImageSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation on a device."""
    return torch.tensor(spec.mean, device=device), torch.tensor(spec.std, device=device)


@functools.lru_cache(maxsize=64)
def _values(spec: ImageSpec) -> npt.NDArray[np.float32]:
    """What each byte stands for in each channel: [3, 256]."""
    bytes_1B13 = torch.arange(256, dtype=torch.uint8).view(1, 256, 1, 1).expand(1, 256, 1, 3)
    table: npt.NDArray[np.float32] = normalised_by_formula(bytes_1B13, spec)[0, :, :, 0].numpy()
    return table
