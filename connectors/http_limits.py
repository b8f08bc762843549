"""What a request may cost: how often requests come, how much they hold, and what that becomes."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from ipaddress import IPv6Address
from typing import Final

from msgspec import Struct

from headrace.engine.clock import NS, Clock

ADDRESSES_MAX: Final = 4096
_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
_RAW: Final = -zlib.MAX_WBITS


class Limits(Struct, frozen=True):
    """How much, how many and how long."""

    body_bytes_max: int
    header_bytes_max: int
    headers_max: int
    inflated_bytes_max: int
    inflated_times_max: float
    header_deadline_s: float
    body_deadline_s: float
    store_deadline_s: float
    connections_max: int
    rate: float | None


def check_limits(limits: Limits, place: str) -> None:
    """Raise `ValueError` if one of *limits* cannot work; *place* says whose they are."""
    for name in Limits.__struct_fields__:
        value = getattr(limits, name)
        if value is None and name == "rate":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ValueError(
                f"{place}, {name}: expected a number above 0, found {ascii(value)[:80]}"
            )


class HttpRefused(Exception):
    """A request that is not taken: with which status, and why."""

    def __init__(self, status: int, reason: str, *, retry_after_s: int | None = None) -> None:
        """Say it in one line, without anything secret: it is what the sender gets."""
        super().__init__(reason)
        self.status = status
        self.retry_after_s = retry_after_s


class Buckets:
    """How many requests each sender may still make: *rate* a second, and *burst* at once.

    A sender is an address, or the 2**64 of IPv6 that one network has.  What is known of the one
    that was seen least recently is forgotten, once there are 4 096.
    """

    def __init__(self, rate: float, burst: float, clock: Clock) -> None:
        """Begin with all of them full."""
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, address: str) -> None:
        """Count a request.

        Raises:
            HttpRefused: there were too many of late.
        """
        key = _network(address) if ":" in address else address
        now_ns = self._clock.monotonic_ns()
        left, at_ns = self._left.get(key, (self._burst, now_ns))
        left = min(self._burst, left + (now_ns - at_ns) * self._rate / NS)
        is_enough = left >= 1
        self._left[key] = (left - 1 if is_enough else left, now_ns)
        self._left.move_to_end(key)
        if len(self._left) > ADDRESSES_MAX:
            self._left.popitem(last=False)
        if not is_enough:
            raise HttpRefused(
                429,
                f"expected at most {self._rate:g} requests a second from one address, found more",
                retry_after_s=max(1, round((1 - left) / self._rate)),
            )


def _network(address: str) -> str:
    try:
        return IPv6Address(address).packed[:8].hex()
    except ValueError:
        return address


def decompressed(body: bytes, encoding: str, limits: Limits) -> bytes:
    """Return what *body* was before it was compressed, if that is within *limits*.

    Raises:
        HttpRefused: it is compressed in another way, is damaged, or would be more.
    """
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return body
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        raise HttpRefused(415, f"expected Content-Encoding gzip or deflate, found {encoding!r:.40}")
    most = min(int(len(body) * limits.inflated_times_max), limits.inflated_bytes_max)
    try:
        return _inflated(body, _GZIP_OR_ZLIB, most)
    except zlib.error:
        if encoding != "deflate":
            raise HttpRefused(400, "expected a body in gzip, found another one") from None
    try:
        # Some send it without the frame that the standard asks for.
        return _inflated(body, _RAW, most)
    except zlib.error:
        raise HttpRefused(400, "expected a body in deflate, found another one") from None


def _inflated(body: bytes, wbits: int, most: int) -> bytes:
    inflater = zlib.decompressobj(wbits)
    data = inflater.decompress(body, most + 1)
    if len(data) > most:
        raise HttpRefused(413, f"expected at most {most} bytes in what is compressed, found more")
    if not inflater.eof or inflater.unused_data:
        found = "more behind it" if inflater.eof else "its end missing"
        raise HttpRefused(400, f"expected a compressed body that is whole, found {found}")
    return data
