"""The client over gRPC: the methods of `Client`, and streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Unpack

from . import _tasks
from ._answers import read_classify, read_embedding, read_vqa
from ._call import CallOptions
from ._client import Methods
from ._grpc_stream import Streaming
from ._grpc_transport import GrpcTransport
from ._images import ImageSource
from ._results import ClassifyResult, Embedding, ItemError, VqaResult

WINDOW = 64


class GrpcClient(Methods, GrpcTransport):
    """Talks to one server over gRPC; may be shared between threads.

    Methods, results and errors are `Client`'s. The `_stream` methods take inputs for as long as there are any, never
    more than `window` ahead of their answers, and give (position, result) in the order they are done; a failed input
    is an `ItemError` in its place, and a broken connection is made again. They have no `timeout` unless given one.
    """

    def vqa_stream(
        self,
        inputs: Iterable[tuple[ImageSource, str]],
        *,
        top_k: int | None = None,
        model: str | None = None,
        window: int = WINDOW,
        **options: Unpack[CallOptions],
    ) -> Iterator[tuple[int, VqaResult | ItemError]]:
        """Answer (picture, question) pairs as they come."""
        shared = _tasks.given(top_k=top_k, model=model)
        fields = ({**shared, **_tasks.vqa_input(*pair)} for pair in inputs)
        return Streaming(self, "Vqa", fields, read_vqa, options, window).run()

    def classify_stream(
        self,
        images: Iterable[ImageSource] | None = None,
        *,
        texts: Iterable[str | tuple[str, str]] | None = None,
        labels: Sequence[str] | None = None,
        head: str | None = None,
        top_k: int | None = None,
        model: str | None = None,
        window: int = WINDOW,
        **options: Unpack[CallOptions],
    ) -> Iterator[tuple[int, ClassifyResult | ItemError]]:
        """Label pictures, or texts or (premise, hypothesis) pairs, as they come."""
        shared = _tasks.label_fields(labels, head, top_k) | _tasks.given(model=model)
        found = _tasks.images_or_texts("classify_stream", images, texts)
        fields = ({**shared, **each} for each in found)
        return Streaming(self, "Classify", fields, read_classify, options, window).run()

    def embed_stream(
        self,
        images: Iterable[ImageSource] | None = None,
        *,
        texts: Iterable[str] | None = None,
        model: str | None = None,
        window: int = WINDOW,
        **options: Unpack[CallOptions],
    ) -> Iterator[tuple[int, Embedding | ItemError]]:
        """The unit vectors of pictures, or of texts, as they come."""
        shared = _tasks.given(model=model)
        found = _tasks.images_or_texts("embed_stream", images, texts)
        fields = ({**shared, **each} for each in found)
        return Streaming(self, "Embed", fields, read_embedding, options, window).run()
