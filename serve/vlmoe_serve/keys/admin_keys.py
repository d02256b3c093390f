"""Who may change what is served."""

from vlmoe_serve.errors import Forbidden, Unauthorized
from vlmoe_serve.keys.api_keys import ApiKeys


class AdminKeys:
    """Keys of a file of their own; without one nobody may."""

    def __init__(self, admins: ApiKeys, callers: ApiKeys) -> None:
        self._admins = admins
        self._callers = callers

    def check(self, shown: bytes | None) -> None:
        """Whether an admin key was shown.

        Raises:
            Forbidden: a caller's key, or there are no admins. Unauthorized: no key, or a foreign one.
        """
        if not self._admins:
            raise Forbidden(
                "models are not changed at run time: the server was started without --admin-key-file"
            )
        if self._admins.admit(shown):
            return
        if shown is not None and self._callers and self._callers.admit(shown):
            raise Forbidden("an admin key is needed, and this is none")
        raise Unauthorized("a valid admin key is needed: `Authorization: Bearer KEY` or `x-api-key: KEY`")
