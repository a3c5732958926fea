"""Ctrl-C while the program is still being loaded: one word, as later; imported before anything that takes time."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType


def say_and_leave(number: int, frame: FrameType | None) -> None:
    """Leave at once: nothing is open yet, and an import that is broken off would show its traceback."""
    os.write(2, b"Interrupted.\n")
    os._exit(130)


def watch() -> None:
    """Take Ctrl-C when the process is the program, started as ``srr`` or as ``python -m srr``; never in a library."""
    program = Path(sys.argv[0]).name == "srr" or sys.orig_argv[1:3] == ["-m", "srr"] if sys.argv else False
    if program and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, say_and_leave)


def hand_over() -> None:
    """Give Ctrl-C back to Python, for whom it is an exception: the program is loaded and knows what to do with it."""
    if signal.getsignal(signal.SIGINT) is say_and_leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
