"""Ending a training where it can be gone on from."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

_HELD_BACK = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Holds back Ctrl-C and SIGTERM, which batch systems send before they kill, until ``act``; a second one acts at
    once. Only Python's main thread gets signals: in another nothing is held back. What the process ignores, as the
    shell's background jobs do Ctrl-C, stays ignored.

    Attributes:
        received: the signal that waits, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._former: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in _HELD_BACK if signal.getsignal(number) is not signal.SIG_IGN]
            self._former = {number: signal.signal(number, self._receive) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def act(self) -> None:
        """Does what the waiting signal would have done, if there is one."""
        if self.received is not None:
            self.__exit__(None, None, None)
            signal.raise_signal(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = number
        if again:
            self.act()
