"""Any text as one token of a subject, and back: for names that foreign servers give things.

What a token cannot hold is written as in URLs (RFC 3986, 2.1): ``%`` and two hexadecimal digits
for each byte of its UTF-8.  An empty text is ``%``, which no other text becomes.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

_SPECIAL: Final = re.compile(r"[\x00-\x20\x7f-\x9f%.*>]")
EMPTY: Final = "%"


def token_of(text: str) -> str:
    """Return *text* as a token: itself, if it is one.

    ``a.b`` becomes ``a%2Eb``; whitespace, control characters, ``.``, ``*``, ``>`` and ``%`` are
    what is written otherwise, wherever they stand.
    """
    if not text:
        return EMPTY
    return _SPECIAL.sub(_written, text)


def text_of(token: str) -> str:
    """Return the text that became *token*.

    Raises:
        ValueError: no text does.
    """
    if token == EMPTY:
        return ""
    text = unquote(token, errors="strict")
    if token_of(text) != token:
        raise ValueError(f"token {token!r}: expected one that token_of makes, found another")
    return text


def _written(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode())
