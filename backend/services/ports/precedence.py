"""Who goes first on the event loop, where nobody can be interrupted."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Precedence(Protocol):
    """Predictions go first. What else takes long for its kind, a login, stands in line and gives way to them."""

    def enter(self) -> None:
        """Note that a prediction begins. Costs less than a microsecond, as does its end."""
        ...

    def leave(self) -> None:
        """Note that a prediction is over, well or not."""
        ...

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Return a block for all that is done about one login; only a few are entered at a time, in order of arrival.

        While predictions are served there is some time between one entry and the next.

        Raises:
            Overloaded: too many wait already, or it took too long.
        """
        ...

    async def give_way(self) -> None:
        """Return when no prediction is under way, or after a moment: between two steps of something that can wait."""
        ...
