"""The touches of devices that are not in the table yet, those of all workers of the service."""

from collections.abc import Callable, Sequence

from api.siblings import Alone, Siblings, SiblingViews
from tracker import View


class PendingView:
    """The touches that were pending at one moment; overlay them on rows that are read afterwards.

    Args:
        own: those of this process.
        others: those of the other workers; None if there are none.
    """

    def __init__(self, own: View, others: SiblingViews | None) -> None:
        self._own = own
        self._others = others

    def __bool__(self) -> bool:
        """Whether anything may be pending."""
        return self._others is not None or bool(self._own)

    async def of(self, device_ids: Sequence[str]) -> View:
        """Return a view of the touches of these devices; it may have touches of further devices.

        Args:
            device_ids: in canonical form.
        """
        if self._others is None or not device_ids:
            return self._own
        return self._own.including(await self._others.latest(device_ids))


class Pending:
    """Takes views of what is pending.

    Args:
        own: takes a view of this process's touches.
        siblings: the other workers.
    """

    def __init__(self, own: Callable[[], View], siblings: Siblings | None = None) -> None:
        self._own = own
        self._siblings = siblings or Alone()

    async def view(self) -> PendingView:
        """Take a view; to be called before the SELECT on whose rows it is overlaid."""
        # This process's view last: it then has the touches that arrive while the siblings respond.
        others = await self._siblings.views()
        return PendingView(self._own(), others)
