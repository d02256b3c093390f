"""Feed-forward layers that several checkpoints of one process have in common: in memory once.

VL-MoE freezes its experts and their routers in fine-tuning, so these layers of a family of checkpoints come from the
same bytes of the same files. Whoever loads the second checkpoint takes the first one's packed layers.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from vlmoe_model.checkpoint.directory import CheckpointDir
from vlmoe_model.feed_forward import FeedForward
from vlmoe_model.network import VLMoE

# each tensor of a layer by its name there, and the bytes of which file, in which state, it is
Source = tuple[object, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A packed layer. source: where its weights came from. made: everything else that it follows from."""

    source: Source
    made: Source
    module: FeedForward


def sources_of(directory: CheckpointDir, network: VLMoE) -> dict[str, Source]:
    """Where the weights of each feed-forward layer lie, by the layer's name."""
    files = {}
    for file in {entry.file for entry in directory.tensors.values()}:
        stat = file.stat()
        # a file that is replaced meanwhile is another one
        files[file] = file.resolve(), stat.st_ino, stat.st_mtime_ns, stat.st_size
    names = [name for name, module in network.named_modules() if isinstance(module, FeedForward)]
    return {
        layer: tuple(
            (name.removeprefix(layer), entry.dtype, entry.shape, entry.begin, entry.end, files[entry.file])
            for name, entry in directory.tensors.items()
            if name.startswith(f"{layer}.")
        )
        for layer in names
    }


def adopt(network: VLMoE, sources: dict[str, Source], made: Source, there: Iterable[Layer]) -> list[str]:
    """Put layers that are there already in the place of a network's own; the names of these layers."""
    known = {(layer.source, layer.made): layer.module for layer in there}
    adopted = {name: known[source, made] for name, source in sources.items() if (source, made) in known}
    for name, module in adopted.items():
        network.set_submodule(name, module)
    return list(adopted)
