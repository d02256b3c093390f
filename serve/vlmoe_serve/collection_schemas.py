"""What the collections' routes take and answer."""

from typing import Annotated, Any

from pydantic import Field

from vlmoe_serve.answers import ErrorBody, Result
from vlmoe_serve.schemas import MAX_INPUTS, Image, ModelName, Strict, Text


class PutCollectionRequest(Strict):
    """How to make a collection. Its vectors are of the model's embedding space for ever."""

    model: ModelName = None


class ItemInput(Strict):
    """One item: an image or a text."""

    id: str = Field(examples=["cats/1.png"])
    image: Image | None = None
    text: Text | None = None
    metadata: dict[str, Any] = Field(default_factory=dict, examples=[{"kind": "shoe", "year": 1999}])


class UpsertOptions(Strict):
    """What the items of one call share."""

    model: ModelName = None


class UpsertRequest(UpsertOptions):
    """Items to add, or to replace where their id exists. Each fails alone."""

    items: Annotated[list[ItemInput], Field(min_length=1, max_length=MAX_INPUTS)]


class ItemFailure(Result):
    """An item that was not stored. id: as it was sent, null if it was no text."""

    id: str | None
    error: ErrorBody


class UpsertAnswer(Result):
    """How many items are now durable, and why the others are not."""

    upserted: int
    errors: list[ItemFailure]


class CollectionAnswer(Result):
    """A collection."""

    name: str
    space_id: str
    count: int


class CollectionsAnswer(Result):
    """All collections, by name."""

    collections: list[CollectionAnswer]


class ItemAnswer(Result):
    """An item of a collection."""

    id: str
    metadata: dict[str, Any]


class ItemsAnswer(Result):
    """Some items by id. cursor: for the next ones, null at the end."""

    items: list[ItemAnswer]
    cursor: str | None


class DeletedAnswer(Result):
    """It is gone."""

    deleted: bool = True
