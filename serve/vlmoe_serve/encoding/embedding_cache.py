"""Embeddings kept by what they follow from: the model, the head, and the prepared input.

An input has the same embedding whatever it is batched with, so a kept one is the one that would be computed, bit
for bit. The key is made of the prepared input (pixels, tokens) and not of the request: the same picture as PNG and as
BMP is one entry. Other heads' outputs are not kept: few questions are asked twice.
"""

import hashlib

import numpy as np
import numpy.typing as npt

from vlmoe_model.inputs import Job
from vlmoe_serve.catalog.models import ServedModel
from vlmoe_serve.encoding.byte_cache import ByteCache, CacheStats

Vector = npt.NDArray[np.float32]


class EmbeddingCache:
    """Outputs of contrastive heads. `max_bytes` 0 keeps nothing."""

    def __init__(self, max_bytes: int = 0) -> None:
        self._cache: ByteCache[bytes, Vector] = ByteCache(max_bytes)

    @property
    def stats(self) -> CacheStats:
        """Counts of the cache."""
        return self._cache.stats

    def key(self, model: ServedModel, job: Job) -> bytes | None:
        """What the output of a job follows from; None for a job whose output is not kept. Hashes the input."""
        if not self._cache or job.explain or model.config.head(job.head).task != "contrastive":
            return None
        info, example = model.info, job.example
        if job.mode is not None or info.facts.routing_mode:
            # it follows from the batch too
            return None
        key = hashlib.sha256("\0".join((info.model_id, info.dtype, info.device, job.head)).encode())
        for part in (example.image, example.tokens):
            key.update(b"\0none" if part is None else f"\0{part.shape} {part.dtype}\0".encode())
            if part is not None:
                key.update(np.ascontiguousarray(part).data)
        return key.digest()

    def get(self, key: bytes | None) -> Vector | None:
        """The kept output."""
        return None if key is None else self._cache.get(key)

    def put(self, key: bytes | None, output: Vector) -> None:
        """Keep an output."""
        if key is not None:
            # a copy of its own: a view would keep the whole batch's outputs alive
            kept = output.copy()
            kept.flags.writeable = False
            self._cache.put(key, kept, kept.nbytes)
