"""Read a single expert of a mixture."""

from vlmoe_kernels import Pool
from vlmoe_model.checkpoint.directory import CheckpointDir
from vlmoe_model.checkpoint.experts import pool_of
from vlmoe_model.checkpoint.weights import read_tensors


def read_expert(directory: CheckpointDir, block: int, name: str, expert: int) -> tuple[Pool, int]:
    """One expert as a pool of one in float32, and the bytes it has in the file.

    Raises:
        CheckpointError: it cannot be read.
    """
    entries = [
        entry
        for entry in directory.tensors.values()
        if pool_of(entry.name, directory.config) == (block, name)
    ]
    rows = {entry.name: [expert] for entry in entries}
    fields, num_bytes = {}, 0
    for entry, tensor in read_tensors(entries, rows):
        fields[entry.name.rpartition(".")[2]] = tensor.float()
        num_bytes += tensor.nbytes
    return Pool(**fields), num_bytes
