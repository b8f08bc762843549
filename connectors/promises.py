"""What a source may promise, and what that means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Promise = Literal["exactly once", "at least once", "at most once"]

WORDS: Final[Mapping[Promise, str]] = {
    "exactly once": "each message that the server keeps is in the log once, also after crashes",
    "at least once": "each message that the server keeps is in the log; after a crash or a lost "
    "connection those that were in flight may be there twice",
    "at most once": "a message that comes while nobody listens is lost; none is there twice",
}
"""What each promise means, for a server that does not lose what it has acknowledged."""
