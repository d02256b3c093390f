"""The tasks' methods for asyncio: each builds a call (`_tasks`) and sends it (`_transport`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

from . import _tasks
from ._call import CallOptions
from ._images import ImageSource
from ._results import (
    ClassifyResult,
    Embedding,
    ItemError,
    RerankResult,
    RetrieveResult,
    RoutingResult,
    VqaResult,
)
from ._transport import AsyncTransport


class AsyncTaskMethods(AsyncTransport):
    """Asking, labelling, embedding, searching."""

    async def vqa(
        self,
        image: ImageSource,
        question: str,
        *,
        top_k: int | None = None,
        model: str | None = None,
        **options: Unpack[CallOptions],
    ) -> VqaResult:
        """Answer a question about a picture."""
        return await self._send(_tasks.vqa(image, question, top_k=top_k, model=model), options)

    async def vqa_many(
        self,
        inputs: Iterable[tuple[ImageSource, str]],
        *,
        top_k: int | None = None,
        model: str | None = None,
        **options: Unpack[CallOptions],
    ) -> list[VqaResult | ItemError]:
        """Answer many (picture, question) pairs."""
        return await self._send_all(_tasks.vqa_many(inputs, top_k=top_k, model=model), options)

    async def classify(
        self,
        image: ImageSource | None = None,
        *,
        text: str | None = None,
        text_pair: str | None = None,
        images: Sequence[ImageSource] | None = None,
        labels: Sequence[str] | None = None,
        head: str | None = None,
        top_k: int | None = None,
        model: str | None = None,
        **options: Unpack[CallOptions],
    ) -> ClassifyResult:
        """Label a picture, a text, a pair of texts, or two pictures with a statement."""
        return await self._send(
            _tasks.classify(
                image,
                text=text,
                text_pair=text_pair,
                images=images,
                labels=labels,
                head=head,
                top_k=top_k,
                model=model,
            ),
            options,
        )

    async def classify_many(
        self,
        images: Iterable[ImageSource] | None = None,
        *,
        texts: Iterable[str | tuple[str, str]] | None = None,
        labels: Sequence[str] | None = None,
        head: str | None = None,
        top_k: int | None = None,
        model: str | None = None,
        **options: Unpack[CallOptions],
    ) -> list[ClassifyResult | ItemError]:
        """Label many pictures, or many texts or (premise, hypothesis) pairs."""
        calls = _tasks.classify_many(images, texts=texts, labels=labels, head=head, top_k=top_k, model=model)
        return await self._send_all(calls, options)

    async def embed(
        self,
        image: ImageSource | None = None,
        *,
        text: str | None = None,
        model: str | None = None,
        **options: Unpack[CallOptions],
    ) -> Embedding:
        """The unit vector of a picture or a text; both lie in one space."""
        return await self._send(_tasks.embed(image, text=text, model=model), options)

    async def embed_many(
        self,
        images: Iterable[ImageSource] | None = None,
        *,
        texts: Iterable[str] | None = None,
        model: str | None = None,
        **options: Unpack[CallOptions],
    ) -> list[Embedding | ItemError]:
        """The unit vectors of many pictures, or of many texts."""
        return await self._send_all(_tasks.embed_many(images, texts=texts, model=model), options)

    async def retrieve(
        self,
        collection: str,
        *,
        text: str | None = None,
        image: ImageSource | None = None,
        top_k: int | None = None,
        rerank: bool | str | None = None,
        filter: Mapping[str, Any] | None = None,
        model: str | None = None,
        **options: Unpack[CallOptions],
    ) -> RetrieveResult:
        """Find the items of a collection that are nearest to a text, a picture, or both."""
        call = _tasks.retrieve(
            collection, text=text, image=image, top_k=top_k, rerank=rerank, filter=filter, model=model
        )
        return await self._send(call, options)

    async def retrieve_many(
        self,
        collection: str,
        images: Iterable[ImageSource] | None = None,
        *,
        texts: Iterable[str] | None = None,
        top_k: int | None = None,
        rerank: bool | str | None = None,
        filter: Mapping[str, Any] | None = None,
        model: str | None = None,
        **options: Unpack[CallOptions],
    ) -> list[RetrieveResult | ItemError]:
        """Search a collection with many pictures, or with many texts."""
        calls = _tasks.retrieve_many(
            collection, images, texts=texts, top_k=top_k, rerank=rerank, filter=filter, model=model
        )
        return await self._send_all(calls, options)

    async def rerank(
        self,
        query: str | None = None,
        images: Sequence[ImageSource] | None = None,
        *,
        image: ImageSource | None = None,
        texts: Sequence[str] | None = None,
        top_n: int | None = None,
        model: str | None = None,
        **options: Unpack[CallOptions],
    ) -> RerankResult:
        """Order pictures by how well they fit a text, or texts by how well they fit a picture."""
        call = _tasks.rerank(query, images, image=image, texts=texts, top_n=top_n, model=model)
        return await self._send(call, options)

    async def explain_routing(
        self,
        task: str,
        image: ImageSource | None = None,
        *,
        question: str | None = None,
        text: str | None = None,
        text_pair: str | None = None,
        labels: Sequence[str] | None = None,
        head: str | None = None,
        top_k: int | None = None,
        model: str | None = None,
        **options: Unpack[CallOptions],
    ) -> RoutingResult:
        """Which experts handled an input of another task, token by token, with the task's answer."""
        call = _tasks.explain_routing(
            task,
            image,
            question=question,
            text=text,
            text_pair=text_pair,
            labels=labels,
            head=head,
            top_k=top_k,
            model=model,
        )
        return await self._send(call, options)
