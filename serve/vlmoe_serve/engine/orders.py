"""What rank 0 tells all ranks to do with their experts before a step, and what they answer. Knows no torch."""

from dataclasses import dataclass

# experts of the image and of the text pool, ascending
Held = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class LayerMove:
    """Block `block` as it is to be: what each rank holds."""

    block: int
    held: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class Orders:
    """Switch to what is prepared, then begin to prepare something else.

    at_once: prepare and switch now, whoever waits.
    """

    switch: bool = False
    prepare: LayerMove | None = None
    at_once: tuple[LayerMove, ...] = ()


@dataclass(frozen=True, slots=True)
class MoveState:
    """is_ready: there is something prepared to switch to. failure: why it could not be prepared, in a line."""

    is_ready: bool = False
    failure: str = ""
