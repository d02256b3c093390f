"""Which experts are in memory: those that are wanted again soonest. A pure policy, all experts being of one size."""

# L = mixtures of a model in the order in which they run, X = experts of one of them

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# place of the mixture, number of the expert
Key = tuple[int, int]

# weight of the newest step in an expert's popularity: half of it is from the last eleven steps
NEWEST = 1 / 16
# popularity at which an expert counts as hardly ever used
RARE = 1e-3


@dataclass(frozen=True, slots=True)
class Moves:
    """What is to leave memory, and then to be read.

    hits: of the needed, how many were there; ahead: how many of these only because they had been expected.
    """

    evict: tuple[Key, ...]
    fetch: tuple[Key, ...]
    hits: int = 0
    ahead: int = 0


class Residency:
    """Keeps those experts whose next use is nearest.

    A mixture is used once in each round over all of them, and of its experts each with a probability: its popularity, a
    mean over steps in which old ones fade. So until the next use of an expert there are

        steps to its mixture + L * (1 / popularity - 1)

    steps of a mixture each. Among equals the one that was used last stays. Unlike plain LRU this keeps something when
    every batch uses every expert.
    """

    def __init__(self, num_layers: int, num_experts: int, room: int) -> None:
        """room: how many experts fit.

        Raises:
            ValueError: not even those of one mixture do.
        """
        if room < num_experts:
            raise ValueError(
                f"there must be room for the {num_experts} experts of one mixture, not for {room}"
            )
        self.room = room
        self._resident_LX = np.zeros((num_layers, num_experts), bool)
        # read because of an expectation, and not used since
        self._ahead_LX = np.zeros_like(self._resident_LX)
        self._pinned_LX = np.zeros_like(self._resident_LX)
        self._popularity_LX = np.full((num_layers, num_experts), 0.5)
        self._used_LX = np.zeros((num_layers, num_experts), np.int64)
        self._now = 0
        self._layer = num_layers - 1

    @property
    def num_resident(self) -> int:
        """Experts in memory."""
        return int(self._resident_LX.sum())

    def resident(self) -> set[Key]:
        """Experts in memory."""
        return _keys(self._resident_LX)

    def need(self, layer: int, experts: Sequence[int]) -> Moves:
        """A mixture's turn has come, and it uses these: they stay at least until the next turn."""
        wanted_X = self._mask(experts)
        self._now += 1
        self._layer = layer
        self._used_LX[layer, wanted_X] = self._now
        self._popularity_LX[layer] += NEWEST * (wanted_X - self._popularity_LX[layer])
        there_X = wanted_X & self._resident_LX[layer]
        ahead = int((there_X & self._ahead_LX[layer]).sum())
        self._ahead_LX[layer] = False
        self._pinned_LX[:] = False
        self._pinned_LX[layer] = wanted_X
        missing = np.flatnonzero(wanted_X & ~there_X)
        evict = self._make_room(len(missing), further_than=0.0)
        self._resident_LX[layer, missing] = True
        return Moves(evict, tuple((layer, int(x)) for x in missing), int(there_X.sum()), ahead)

    def expect(self, layer: int, experts: Sequence[int], *, is_idle: bool = False) -> Moves:
        """A mixture will probably use these at its next turn: they come before then, as far as there is room.

        Nothing goes for them that is wanted as soon, or that the running mixture uses; is_idle: none runs now.
        """
        wanted_X = self._mask(experts)
        if is_idle:
            self._pinned_LX[:] = False
        self._pinned_LX[layer] |= wanted_X
        missing = np.flatnonzero(wanted_X & ~self._resident_LX[layer])
        # the most popular first, should there not be room for all
        missing = missing[np.argsort(-self._popularity_LX[layer, missing], kind="stable")]
        evict = self._make_room(len(missing), further_than=float(self._steps_to_L()[layer]))
        fetch = missing[: self.room - self.num_resident]
        self._resident_LX[layer, fetch] = True
        self._ahead_LX[layer, fetch] = True
        return Moves(evict, tuple((layer, int(x)) for x in fetch))

    def hottest(self, count: int) -> list[Key]:
        """The most popular experts that are in memory, at most so many."""
        popularity_LX = np.where(self._resident_LX, self._popularity_LX, -1.0)
        order = np.argsort(-popularity_LX, axis=None, kind="stable")[: min(count, self.num_resident)]
        return [self._key(at) for at in order]

    def _mask(self, experts: Sequence[int]) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        mask_X = np.zeros(self._resident_LX.shape[1], bool)
        mask_X[list(experts)] = True
        return mask_X

    def _steps_to_L(self) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """Turns until each mixture's next one; a whole round for the running one."""
        num_layers = len(self._resident_LX)
        return (np.arange(num_layers) - self._layer - 1) % num_layers + 1

    def _make_room(self, count: int, *, further_than: float) -> tuple[Key, ...]:
        """Let those go that are wanted last, and later than that, until there is room for so many."""
        count -= self.room - self.num_resident
        if count <= 0:
            return ()
        rounds_LX = 1 / np.maximum(self._popularity_LX, RARE) - 1
        wait_LX = self._steps_to_L()[:, None] + len(self._resident_LX) * rounds_LX
        may_go = np.flatnonzero(self._resident_LX & ~self._pinned_LX & (wait_LX > further_than))
        order = np.lexsort((self._used_LX.flat[may_go], -wait_LX.flat[may_go]))
        going = [self._key(at) for at in may_go[order[:count]]]
        for layer, expert in going:
            self._resident_LX[layer, expert] = self._ahead_LX[layer, expert] = False
        return tuple(going)

    def _key(self, at: np.int64) -> Key:
        layer, expert = divmod(int(at), self._resident_LX.shape[1])
        return layer, expert


def _keys(mask_LX: "np.ndarray[tuple[int, int], np.dtype[np.bool_]]") -> set[Key]:
    return {(int(layer), int(expert)) for layer, expert in np.argwhere(mask_LX)}
