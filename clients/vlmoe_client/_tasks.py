"""The calls of the tasks: vqa, classify, embed, retrieve, rerank, and the explanation of the first three."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ._answers import (
    one,
    read_classify,
    read_embedding,
    read_rerank,
    read_retrieve,
    read_routing,
    read_vqa,
)
from ._call import Call
from ._chunks import batches
from ._images import ImageSource, Picture
from ._results import (
    ClassifyResult,
    Embedding,
    ItemError,
    RerankResult,
    RetrieveResult,
    RoutingResult,
    VqaResult,
)

TextOrPair = str | tuple[str, str]


def vqa(
    image: ImageSource, question: str, *, top_k: int | None = None, model: str | None = None
) -> Call[VqaResult]:
    """`POST /vqa` of one picture."""
    return Call(
        "POST", "/vqa", one(read_vqa), vqa_input(image, question) | given(top_k=top_k, model=model), rpc="Vqa"
    )


def vqa_many(
    inputs: Iterable[tuple[ImageSource, str]], *, top_k: int | None = None, model: str | None = None
) -> Iterator[Call[list[VqaResult | ItemError]]]:
    """`POST /vqa` of any number of pictures."""
    return batches(
        "/vqa", (vqa_input(*pair) for pair in inputs), read_vqa, given(top_k=top_k, model=model), rpc="Vqa"
    )


def classify(
    image: ImageSource | None = None,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    images: Sequence[ImageSource] | None = None,
    labels: Sequence[str] | None = None,
    head: str | None = None,
    top_k: int | None = None,
    model: str | None = None,
) -> Call[ClassifyResult]:
    """`POST /classify` of a picture, a text, a pair of texts, or two pictures with a statement."""
    if image is None and text is None and images is None:
        raise ValueError("classify needs an image, a text, or images with a text")
    if image is not None and images is not None:
        raise ValueError("classify takes image or images, not both")
    body = given(
        image=_picture(image),
        text=text,
        text_pair=text_pair,
        images=None if images is None else [Picture(each) for each in images],
        model=model,
    )
    return Call(
        "POST", "/classify", one(read_classify), body | label_fields(labels, head, top_k), rpc="Classify"
    )


def classify_many(
    images: Iterable[ImageSource] | None = None,
    *,
    texts: Iterable[TextOrPair] | None = None,
    labels: Sequence[str] | None = None,
    head: str | None = None,
    top_k: int | None = None,
    model: str | None = None,
) -> Iterator[Call[list[ClassifyResult | ItemError]]]:
    """`POST /classify` of any number of pictures, or of texts."""
    shared = label_fields(labels, head, top_k) | given(model=model)
    return batches(
        "/classify", images_or_texts("classify_many", images, texts), read_classify, shared, rpc="Classify"
    )


def embed(
    image: ImageSource | None = None, *, text: str | None = None, model: str | None = None
) -> Call[Embedding]:
    """`POST /embed` of a picture or a text."""
    if (image is None) == (text is None):
        raise ValueError("embed takes either an image or a text")
    return Call(
        "POST",
        "/embed",
        one(read_embedding),
        given(image=_picture(image), text=text, model=model),
        rpc="Embed",
    )


def embed_many(
    images: Iterable[ImageSource] | None = None,
    *,
    texts: Iterable[str] | None = None,
    model: str | None = None,
) -> Iterator[Call[list[Embedding | ItemError]]]:
    """`POST /embed` of any number of pictures, or of texts."""
    inputs = images_or_texts("embed_many", images, texts)
    return batches("/embed", inputs, read_embedding, given(model=model), rpc="Embed")


def retrieve(
    collection: str,
    *,
    text: str | None = None,
    image: ImageSource | None = None,
    top_k: int | None = None,
    rerank: bool | str | None = None,
    filter: Mapping[str, Any] | None = None,
    model: str | None = None,
) -> Call[RetrieveResult]:
    """`POST /retrieve` by a text, a picture, or both."""
    if text is None and image is None:
        raise ValueError("retrieve needs a text, an image, or both")
    body = given(
        collection=collection,
        text=text,
        image=_picture(image),
        top_k=top_k,
        rerank=rerank,
        filter=filter,
        model=model,
    )
    return Call("POST", "/retrieve", one(read_retrieve), body, rpc="Retrieve")


def retrieve_many(
    collection: str,
    images: Iterable[ImageSource] | None = None,
    *,
    texts: Iterable[str] | None = None,
    top_k: int | None = None,
    rerank: bool | str | None = None,
    filter: Mapping[str, Any] | None = None,
    model: str | None = None,
) -> Iterator[Call[list[RetrieveResult | ItemError]]]:
    """`POST /retrieve` by any number of pictures, or of texts."""
    shared = given(collection=collection, top_k=top_k, rerank=rerank, filter=filter, model=model)
    return batches(
        "/retrieve", images_or_texts("retrieve_many", images, texts), read_retrieve, shared, rpc="Retrieve"
    )


def rerank(
    query: str | None = None,
    images: Sequence[ImageSource] | None = None,
    *,
    image: ImageSource | None = None,
    texts: Sequence[str] | None = None,
    top_n: int | None = None,
    model: str | None = None,
) -> Call[RerankResult]:
    """`POST /rerank` of pictures by a text, or of texts by a picture."""
    by_text = query is not None
    if by_text == (image is not None) or by_text != (images is not None) or by_text == (texts is not None):
        raise ValueError("rerank takes either a query with images, or an image with texts")
    if isinstance(images if by_text else texts, (str, bytes)):
        raise TypeError("rerank takes a sequence of images or texts, got one")
    body = given(
        query=query,
        images=None if images is None else [Picture(each) for each in images],
        image=_picture(image),
        texts=None if texts is None else list(texts),
        top_n=top_n,
        model=model,
    )
    return Call("POST", "/rerank", one(read_rerank), body, rpc="Rerank")


def explain_routing(
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
) -> Call[RoutingResult]:
    """`POST /explain/routing` of one input."""
    body = given(
        task=task, image=_picture(image), question=question, text=text, text_pair=text_pair, model=model
    )
    return Call(
        "POST",
        "/explain/routing",
        one(read_routing),
        body | label_fields(labels, head, top_k),
        rpc="ExplainRouting",
    )


def vqa_input(image: ImageSource, question: str) -> dict[str, Any]:
    return {"image": Picture(image), "question": question}


def label_fields(labels: Sequence[str] | None, head: str | None, top_k: int | None) -> dict[str, Any]:
    if isinstance(labels, str):
        raise TypeError(f"labels is a sequence of strings, got the string {labels!r}")
    return given(labels=None if labels is None else list(labels), head=head, top_k=top_k)


def images_or_texts(
    method: str, images: Iterable[ImageSource] | None, texts: Iterable[TextOrPair] | None
) -> Iterator[dict[str, Any]]:
    if (images is None) == (texts is None):
        raise ValueError(f"{method} takes either images or texts")
    given = texts if images is None else images
    if isinstance(given, (str, bytes)):
        raise TypeError(f"{method} takes several images or texts, got one {type(given).__name__}")
    if images is not None:
        return ({"image": Picture(image)} for image in images)
    return (_text_fields(text) for text in texts or ())


def _text_fields(text: TextOrPair) -> dict[str, Any]:
    return {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}


def _picture(image: ImageSource | None) -> Picture | None:
    return None if image is None else Picture(image)


def given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
