"""The columns of a routing trace, one row a (step, MoE layer, token, slot), and what `meta.json` says of them.

DIR/meta.json   DIR/*.parquet or *.arrow (Arrow IPC, file or stream)
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmoe_serve.placement.costs import Costs, CostsError, parse_costs
from vlmoe_serve.placement.machines import DEVICES, Sizes

META = "meta.json"


class TraceError(ValueError):
    """A trace that cannot be read or written; one line with the file's name."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Columns of equal length.

    step: of the engine, not falling. time_us: since 1970. rank: home of the sequence. request: the sequence; one of
    several in a call has a number of its own. token: position in the sequence. modality: 0 image, 1 text. layer: block
    from 0. slot: 0 is the first choice. expert: within its modality's pool. gate: factor of its output.
    """

    step: npt.NDArray[np.int64]
    time_us: npt.NDArray[np.int64]
    rank: npt.NDArray[np.int16]
    request: npt.NDArray[np.int64]
    token: npt.NDArray[np.int32]
    modality: npt.NDArray[np.int8]
    layer: npt.NDArray[np.int16]
    slot: npt.NDArray[np.int8]
    expert: npt.NDArray[np.int16]
    gate: npt.NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.step)


COLUMNS: dict[str, type[np.generic]] = {
    "step": np.int64,
    "time_us": np.int64,
    "rank": np.int16,
    "request": np.int64,
    "token": np.int32,
    "modality": np.int8,
    "layer": np.int16,
    "slot": np.int8,
    "expert": np.int16,
    "gate": np.float16,
}
assert tuple(COLUMNS) == tuple(field.name for field in fields(Rows))


@dataclass(frozen=True, slots=True)
class TraceMeta:
    """layers: blocks that are mixtures, ascending. pools: experts of the image and of the text pool.

    num_ranks: of the recording; 0 if some was recorded with other numbers, so that homes say nothing. device, sizes,
    costs: what it was recorded on, last, and what a step costs there; None where it does not say.
    """

    model_id: str
    layers: tuple[int, ...]
    pools: tuple[int, int]
    num_ranks: int
    device: str | None = None
    sizes: Sizes | None = None
    costs: Costs | None = None

    def is_same_model(self, other: "TraceMeta") -> bool:
        """Whether both can stand in one directory."""
        return (self.model_id, self.layers, self.pools) == (other.model_id, other.layers, other.pools)

    def to_json(self) -> str:
        """As `meta.json` holds it."""
        values = {
            "model_id": self.model_id,
            "layers": list(self.layers),
            "experts": list(self.pools),
            "ranks": self.num_ranks,
        }
        if self.device is not None:
            values["device"] = self.device
        if self.sizes is not None:
            values["sizes"] = asdict(self.sizes)
        if self.costs is not None:
            values["costs"] = asdict(self.costs)
        return json.dumps(values) + "\n"


def read_meta(directory: Path) -> TraceMeta | None:
    """What `meta.json` says; None where there is none.

    Raises:
        TraceError: it is there and wrong.
    """
    path = directory / META
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise TraceError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise TraceError(f"{path}: must hold a JSON object")
    layers = tuple(sorted(_wholes(path, values, "layers", 0)))
    experts = _wholes(path, values, "experts", 0)
    ranks = values.get("ranks", 1)
    if len(experts) == 1:
        experts = experts * 2
    if len(experts) != 2 or not layers or sum(experts) < 1 or len(set(layers)) != len(layers):
        raise TraceError(f"{path}: needs different layers and the experts of two pools, got {values}")
    if not isinstance(ranks, int) or isinstance(ranks, bool) or not 0 <= ranks <= 32767:
        raise TraceError(f"{path}: ranks must be a whole number from 0, got {ranks!r}")
    device = values.get("device")
    return TraceMeta(
        str(values.get("model_id", "")),
        layers,
        (experts[0], experts[1]),
        ranks,
        device if device in DEVICES else None,
        _sizes(path, values.get("sizes")),
        _costs(path, values.get("costs")),
    )


def _costs(path: Path, values: object) -> Costs | None:
    try:
        return None if values is None else parse_costs(values)
    except CostsError as error:
        raise TraceError(f"{path}: costs: {error}") from None


def _sizes(path: Path, values: object) -> Sizes | None:
    if values is None:
        return None
    names = [field.name for field in fields(Sizes)]
    if not isinstance(values, dict) or sorted(values) != sorted(names):
        raise TraceError(f"{path}: sizes must have {', '.join(names)}, got {values!r}")
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < (name != "shared_parameters"):
            raise TraceError(f"{path}: {name} must be a positive whole number, got {value!r}")
    return Sizes(**values)


def _wholes(path: Path, values: dict[str, Any], name: str, low: int) -> list[int]:
    """A list of whole numbers; one alone counts as a list."""
    found = values.get(name)
    listed: list[Any] = found if isinstance(found, list) else [found]
    for each in listed:
        if not isinstance(each, int) or isinstance(each, bool) or not low <= each <= 32767:
            raise TraceError(f"{path}: {name} must be whole numbers from {low}, got {found!r}")
    return listed
