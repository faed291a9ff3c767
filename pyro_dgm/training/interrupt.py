"""Ctrl-C that waits for the step at hand."""

__all__ = ["Interrupt"]

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, final


@final
class Interrupt:
    """Holds back the first Ctrl-C, so that no step is cut in half; a second one acts at once.

    Within ``with Interrupt() as interrupt``, `interrupt.pending` turns true instead of KeyboardInterrupt being
    raised. Outside the main thread, or where the program handles Ctrl-C itself, nothing is changed.
    """

    def __init__(self) -> None:
        self.pending = False
        self._process = os.getpid()
        self._before: Any = None

    def __enter__(self) -> "Interrupt":
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._hold)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker of a DataLoader, which the main process ends
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True
        print("\nInterrupted: ends after this step (again: at once, without saving).", file=sys.stderr, flush=True)
