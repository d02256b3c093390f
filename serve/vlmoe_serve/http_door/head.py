"""A request's headers, decoded once however many layers ask for them."""

from starlette.types import Scope

_HEAD = "vlmoe.head"


def head_of(scope: Scope) -> dict[str, str]:
    """Values by name, in lower case; of a name that stands twice the first."""
    known: dict[str, str] | None = scope.get(_HEAD)
    if known is None:
        known = scope[_HEAD] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])
        }
    return known
