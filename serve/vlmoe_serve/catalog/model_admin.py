"""Changing what is served while it is served: load, swap, unload.

    open -> start its own engine -> canary beside the model of that name -> spaces -> switch -> the old one leaves

Nothing has changed until the switch, which is one assignment, so whatever fails before it leaves all as it was. A
request that has chosen its model keeps it: the old engine is stopped when nobody holds the old model any more.

A model that shares weights with others, a delta with its base, gets one engine with them: they are started together
with it, once more, and take over their own names at the switch.
"""

import asyncio
import logging
import re
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vlmoe_model.errors import CheckpointError
from vlmoe_serve.answers import Result
from vlmoe_serve.batching.batcher import Batcher
from vlmoe_serve.catalog.canary import CanaryFailed, HeadReport, compare
from vlmoe_serve.catalog.family import Member
from vlmoe_serve.catalog.models import ServedModel
from vlmoe_serve.engine.failures import EngineStartError
from vlmoe_serve.errors import Conflict, Forbidden, InvalidField, ShuttingDown, SpaceConflict
from vlmoe_serve.placement.placement import PlacementError
from vlmoe_serve.schemas import Strict
from vlmoe_serve.service import Service
from vlmoe_serve.validation import check, shown

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class LoadRequest(Strict):
    """A checkpoint below the server's `--model-root`."""

    path: Annotated[str, Field(min_length=1, max_length=4096)] = Field(examples=["shoes-2"])
    min_likeness: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="How alike the canary's answers must be to those of the model that is replaced."
    )
    allow_new_space: bool = Field(
        False, description="Replace the model even if collections hold embeddings that only it can search."
    )


class LoadedAnswer(Result):
    """What is served under the name now, and how the canary's answers compare. replaced: the former model_id."""

    id: str
    model_id: str
    space_id: str | None
    replaced: str | None
    canary: list[HeadReport]


class UnloadedAnswer(Result):
    """What was served under the name until now."""

    id: str
    model_id: str
    state: str = "unloaded"


OpenBeside = Callable[[str, str, Iterable[ServedModel]], list[ServedModel]]


class ModelAdmin:
    """Loads and unloads models, one at a time.

    open_beside: makes a model of a name and a checkpoint directory, to be served beside others, and these once more
    that are to share its engine, which is not started. root: what may be loaded lies below it; None lets nothing be
    loaded.
    """

    def __init__(self, service: Service, open_beside: OpenBeside, root: Path | None) -> None:
        self._service = service
        self._open_beside = open_beside
        self._root = None if root is None else root.resolve()
        self._one_at_a_time = asyncio.Lock()
        # batchers that no served model holds: of models that are being loaded, or that are leaving
        self._others: set[Batcher | Member] = set()
        self._stopping: set[asyncio.Task[None]] = set()
        self._loading: set[asyncio.Task[LoadedAnswer]] = set()

    async def load(self, name: str, body: object) -> LoadedAnswer:
        """Serve a checkpoint under a name, in place of what is served under it.

        Raises:
            Forbidden: outside the root. InvalidField: no checkpoint, or one that does not load. Conflict: the canary
            differs too much. SpaceConflict: collections would be left without a model. ShuttingDown: given up.
        """
        self._service.admit_started()
        request = check(LoadRequest, body)
        if not _NAME.fullmatch(name):
            raise InvalidField(
                f"name must be letters, digits, ., _ or -, at most 64, got {shown(name)}", param="name"
            )
        loading = asyncio.ensure_future(self._load(name, self._below_root(request.path), request))
        self._loading.add(loading)
        loading.add_done_callback(self._loading.discard)
        try:
            return await loading
        except asyncio.CancelledError:
            asking = asyncio.current_task()
            if asking is not None and asking.cancelling():
                raise
            raise ShuttingDown("the server is shutting down") from None

    def give_up(self) -> None:
        """The server ends: what is being loaded will not be served, and whoever asked for it is refused."""
        for loading in self._loading:
            loading.cancel()

    async def _load(self, name: str, path: Path, request: LoadRequest) -> LoadedAnswer:
        async with self._one_at_a_time:
            model, *relatives = self._opened(name, path)
            batchers = [one.batcher for one in (model, *relatives)]
            self._others.update(batchers)
            try:
                old = self._service.models.get(name)
                reports = await self._tried(model, old, request)
                await self._check_same(relatives)
                await self._check_spaces(model, old, request)
            except BaseException:
                for batcher in batchers:
                    await self._stop(batcher)
                raise
            for relative in relatives:
                self._switch(relative, self._service.models.named(relative.name))
            self._switch(model, old)
            _log.info("model %s: %s loaded", name, model.info.model_id)
            return LoadedAnswer(
                id=name,
                model_id=model.info.model_id,
                space_id=model.info.space_id,
                replaced=None if old is None else old.info.model_id,
                canary=reports,
            )

    async def unload(self, name: str) -> UnloadedAnswer:
        """Serve no model of this name any more. Collections of its space stay, and wait for a model of it.

        Raises:
            NotFound: no such model. Conflict: it is the last one.
        """
        self._service.admit_started()
        async with self._one_at_a_time:
            old = self._service.models.named(name)
            if len(list(self._service.models)) == 1:
                raise Conflict(f"{name!r} is the only model; load another one first", code="last_model")
            self._service.models = self._service.models.without(name)
            self._service.metrics.on_model_gone(name, old.info)
            self._retire(old)
            _log.info("model %s: %s unloaded", name, old.info.model_id)
            return UnloadedAnswer(id=name, model_id=old.info.model_id)

    async def close(self) -> None:
        """Stop the engines of models that are being loaded or are leaving."""
        await asyncio.gather(*(self._stop(batcher) for batcher in list(self._others)), *self._stopping)

    def _below_root(self, given: str) -> Path:
        if self._root is None:
            raise Forbidden("nothing can be loaded: the server was started without --model-root")
        try:
            path = (self._root / given).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidField(f"path {shown(given)}: {error!s:.80}", param="path") from None
        if not path.is_relative_to(self._root):
            raise Forbidden(f"path {shown(given)} leads out of --model-root", param="path")
        return path

    def _opened(self, name: str, path: Path) -> list[ServedModel]:
        try:
            opened = self._open_beside(name, str(path), self._service.models)
        except CheckpointError as error:
            raise InvalidField(str(error), param="path", code="invalid_checkpoint") from error
        except PlacementError as error:
            raise InvalidField(f"--placement: {error}", param="path", code="load_failed") from error
        assert self._root is not None
        for file in {entry.file for entry in opened[0].directory.tensors.values()}:
            # a link, or the place that a delta names for its base
            if not file.resolve().is_relative_to(self._root):
                raise Forbidden(f"{path.name}: its weights lie outside --model-root", param="path")
        return opened

    async def _tried(
        self, model: ServedModel, old: ServedModel | None, request: LoadRequest
    ) -> list[HeadReport]:
        try:
            await model.batcher.start()
            reports = await compare(model, old)
        except (EngineStartError, CanaryFailed) as error:
            raise InvalidField(f"{error}", param="path", code="load_failed") from error
        for report in reports:
            if report.likeness < request.min_likeness:
                raise Conflict(
                    f"head {report.head!r} answers too differently: {report.likeness:.3f} alike, "
                    f"at least {request.min_likeness:g} is asked for",
                    code="canary_differs",
                    param="min_likeness",
                )
        return reports

    async def _check_same(self, relatives: Sequence[ServedModel]) -> None:
        for model in relatives:
            served = self._service.models.named(model.name).info
            found = await model.batcher.start()
            if found.facts != served.facts:
                raise Conflict(
                    f"{model.name!r} shares weights with it, and its files are not those that are served any more: "
                    f"{served.facts.model_id} became {found.facts.model_id}; load it first",
                    code="relative_changed",
                    param="path",
                )

    async def _check_spaces(self, new: ServedModel, old: ServedModel | None, request: LoadRequest) -> None:
        space_id = None if old is None else old.info.space_id
        left = [model.info.space_id for model in self._service.models if model is not old]
        if space_id is None or request.allow_new_space or space_id in (new.info.space_id, *left):
            return
        orphans = [
            one.name
            for one in await self._service.collections.all()
            if one.space_id == space_id and one.count
        ]
        if orphans:
            names = ", ".join(orphans[:3]) + (f" and {len(orphans) - 3} more" if len(orphans) > 3 else "")
            raise SpaceConflict(
                f"{names}: embeddings of space {space_id}, the new model has {new.info.space_id}; "
                "serve it under another name, or set allow_new_space",
                param="path",
            )

    def _switch(self, model: ServedModel, old: ServedModel | None) -> None:
        self._service.models = self._service.models.with_model(model)
        self._others.discard(model.batcher)
        if old is not None:
            self._service.metrics.on_model_gone(old.name, old.info)
            self._retire(old)
        self._service.metrics.on_model(model.name, model.info)

    def _retire(self, model: ServedModel) -> None:
        """Stop a model's engine once the last request that has chosen it is gone."""
        batcher, loop = model.batcher, asyncio.get_running_loop()
        self._others.add(batcher)

        def stop() -> None:
            if batcher in self._others:
                task = loop.create_task(self._stop(batcher))
                self._stopping.add(task)
                task.add_done_callback(self._stopping.discard)

        # the last to hold it may be a thread that decodes
        weakref.finalize(model, _call_in, loop, stop).atexit = False

    async def _stop(self, batcher: Batcher | Member) -> None:
        await batcher.stop()
        self._others.discard(batcher)


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)
