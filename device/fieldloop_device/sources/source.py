"""What every source gives, and what it hears of each answer.

A source is an iterator of items that ends when its `stop` event is set or when there is nothing
more to come. What cannot be read is an item too, with its error, so that one bad line or file is
counted and the next one is served. Whoever takes an item writes the answer into it before asking
for the next; a source that has something to do with it (move a file, publish a message) does it
then.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from fieldloop.errors import FieldloopError

POLL_S = 0.2
"""How long a source waits before it looks at `stop` again."""


@dataclass(slots=True)
class Item:
    """One input.

    Attributes:
        id: As the source names it; None if it does not.
        raw: The input; meaningless with an error.
        error: Why it could not be read.
        is_refused: Set by who takes the item if the model does not take it.
        answer: Set by who takes the item: the answer as JSON would have it.
    """

    id: str | None
    raw: object = None
    error: FieldloopError | None = None
    is_refused: bool = False
    answer: dict[str, Any] | None = None


class Source(Protocol):
    """Something that gives inputs."""

    def items(self, stop: threading.Event) -> Iterator[Item]:
        """Give inputs until `stop` is set or no more can come."""


def rest(stop: threading.Event, seconds: float) -> None:
    """Sleep, but not long past `stop`.

    In `stop.wait` a signal handler that sets the event could hang, so this sleeps in pieces.
    """
    end = time.monotonic() + seconds
    while not stop.is_set() and (left := end - time.monotonic()) > 0:
        time.sleep(min(POLL_S, left))
