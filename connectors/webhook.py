"""Whether a webhook was sent by who knows its secret: `verify`, for the schemes that are in use.

Each scheme is an HMAC with SHA-256 over the raw bytes of the body, by its published specification:

- ``github``: https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
- ``stripe``: https://docs.stripe.com/webhooks#verify-manually
- ``slack``: https://docs.slack.dev/authentication/verifying-requests-from-slack
- ``standard``: https://www.standardwebhooks.com (symmetric signatures, ``v1``)

A header may hold several signatures, and there may be several secrets: so secrets are rotated.
Signatures of other versions are passed over, and are never enough.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, get_args

from msgspec import Struct

from headrace.engine.errors import HeadraceError

Scheme = Literal["github", "stripe", "slack", "standard"]
Secrets = str | bytes | Sequence[str | bytes]
Headers = (
    Mapping[str, str] | Mapping[bytes, bytes] | Mapping[str, bytes] | Mapping[str, str | bytes]
)

TOLERANCE_S: Final = 300
"""How far the time of a signature may be from now, either way."""
STANDARD_PREFIX: Final = "whsec_"
_TIMESTAMP_DIGITS_MAX: Final = 12


class Delivery(Struct, frozen=True):
    """What a signature vouches for, besides the body."""

    id: str | None
    """By which a delivery is known if it comes again.

    Stripe and Slack have it in the body only; here it is a digest of the time and the body, so
    that a copy of the request has the same.  GitHub's is not covered by its signature.
    """
    sent_at_s: int | None
    """When it was signed, in seconds since the epoch; GitHub does not say."""


class BadSignature(HeadraceError, ValueError):
    """A webhook that was not signed with one of the secrets, or not just now."""


def verify(scheme: str, secrets: Secrets, headers: Headers, body: bytes, now: float) -> Delivery:
    """Return what is known of a webhook that is signed with one of *secrets*.

    *headers* may be written in any case; *body* is what came over the wire; *now* is in seconds
    since the epoch.

    Raises:
        BadSignature: it is not, or was signed more than 300 s ago or ahead.
        ValueError: there is no such scheme, no secret, or one that is empty.
        TypeError: the body is not bytes.
    """
    return verify_with(scheme, checked_secrets(scheme, secrets), headers, body, now)


def checked_secrets(scheme: str, secrets: Secrets, place: str = "webhook") -> tuple[bytes, ...]:
    """Return the keys that *secrets* are.

    Raises:
        ValueError: as `verify` does; *place* says whose they are.
    """
    if scheme not in get_args(Scheme):
        raise ValueError(
            f"{place}, scheme: expected {', '.join(get_args(Scheme))}; found {scheme!r}"
        )
    if not isinstance(secrets, Sequence):
        raise TypeError(
            f"{place}, secrets: expected text, or a list of texts, found {type(secrets).__name__}"
        )
    given = [secrets] if isinstance(secrets, str | bytes) else list(secrets)
    if not given:
        raise ValueError(f"{place}, secrets: expected at least one, found none")
    return tuple(_key(scheme, secret, place) for secret in given)


def _key(scheme: str, secret: object, place: str) -> bytes:
    if not isinstance(secret, str | bytes):
        raise TypeError(
            f"{place}, secrets: expected each to be text or bytes, found {type(secret).__name__}"
        )
    text = secret.encode() if isinstance(secret, str) else secret
    bare = text.removeprefix(STANDARD_PREFIX.encode())
    if not bare.strip():
        raise ValueError(
            f"{place}, secrets: expected each to have at least one character, found one that is "
            "empty; is a variable of the environment not set?"
        )
    if scheme != "standard" or isinstance(secret, bytes):
        return text
    try:
        # Not a word of the secret in the message.
        key = base64.b64decode(bare, validate=True)
    except binascii.Error:
        raise ValueError(
            f"{place}, secrets: expected {STANDARD_PREFIX}… in base64, found something else"
        ) from None
    if not key:
        raise ValueError(f"{place}, secrets: expected each to have a key, found one that is empty")
    return key


def verify_with(
    scheme: str, keys: Sequence[bytes], headers: Headers, body: bytes, now: float
) -> Delivery:
    """As `verify`, with what `checked_secrets` has made of the secrets."""
    if not isinstance(body, bytes):
        raise TypeError(f"webhook, body: expected the bytes that came, found {type(body).__name__}")
    return _SCHEMES[scheme](keys, _Given(headers), body, now)


class _Given:
    """Headers by name in small letters, as bytes: text with other letters would not compare."""

    def __init__(self, headers: Headers) -> None:
        found: dict[bytes, bytes | None] = {}
        for name, value in headers.items():
            key = _bytes(name).lower()
            # One of two would be looked at here and the other one by somebody else.
            found[key] = None if key in found else _bytes(value)
        self._found = found

    def one(self, name: str) -> bytes:
        """Return the header *name*."""
        key = name.encode()
        value = self._found.get(key)
        if value is None:
            found = "it twice" if key in self._found else "none"
            raise BadSignature(f"expected a header {name}, found {found}")
        return value.strip()

    def maybe(self, name: str) -> str | None:
        """Return the header *name* as text, if it is there and is ASCII."""
        value = (self._found.get(name.encode()) or b"").strip()
        return value.decode() if value and value.isascii() else None


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    raise TypeError(f"webhook, headers: expected text or bytes, found {type(value).__name__}")


def _github(
    keys: Sequence[bytes],
    given: _Given,
    body: bytes,
    now: float,  # noqa: ARG001 (nothing says when it was signed)
) -> Delivery:
    name = "x-hub-signature-256"
    signatures = _listed(given.one(name), b"sha256", name)
    _check([_hex(key, body) for key in keys], signatures, name)
    return Delivery(given.maybe("x-github-delivery"), None)


def _stripe(keys: Sequence[bytes], given: _Given, body: bytes, now: float) -> Delivery:
    name = "stripe-signature"
    header = given.one(name)
    times = _listed(header, b"t", name)
    if len(times) != 1:
        raise BadSignature(f"header {name}: expected one t=, found {len(times)}")
    signed = times[0] + b"." + body
    _check([_hex(key, signed) for key in keys], _listed(header, b"v1", name), name)
    return Delivery(_digest(signed), _fresh(times[0], name, now))


def _slack(keys: Sequence[bytes], given: _Given, body: bytes, now: float) -> Delivery:
    name, time = "x-slack-signature", given.one("x-slack-request-timestamp")
    signed = b"v0:" + time + b":" + body
    _check([_hex(key, signed) for key in keys], _listed(given.one(name), b"v0", name), name)
    return Delivery(_digest(signed), _fresh(time, "x-slack-request-timestamp", now))


def _standard(keys: Sequence[bytes], given: _Given, body: bytes, now: float) -> Delivery:
    name = "webhook-signature"
    id, time = given.one("webhook-id"), given.one("webhook-timestamp")
    if not id or not id.isascii():
        raise BadSignature("header webhook-id: expected an id in ASCII, found another value")
    signed = id + b"." + time + b"." + body
    parts = (part.partition(b",") for part in given.one(name).split(b" "))
    signatures = [signature for version, _, signature in parts if version == b"v1"]
    expected = [base64.b64encode(_mac(key, signed)) for key in keys]
    _check(expected, _some(signatures, b"v1", name), name)
    return Delivery(id.decode(), _fresh(time, "webhook-timestamp", now))


_SCHEMES: Final = {
    "github": _github,
    "stripe": _stripe,
    "slack": _slack,
    "standard": _standard,
}


def _listed(header: bytes, version: bytes, name: str) -> list[bytes]:
    """Return what stands behind ``version=``; versions that are not known here are passed over."""
    parts = (part.strip().partition(b"=") for part in header.split(b","))
    return _some([value for found, _, value in parts if found == version], version, name)


def _some(values: list[bytes], version: bytes, name: str) -> list[bytes]:
    if not values:
        raise BadSignature(f"header {name}: expected {version.decode()}, found none")
    return values


def _check(expected: Iterable[bytes], signatures: list[bytes], name: str) -> None:
    found = False
    for digest in expected:
        for signature in signatures:
            found |= hmac.compare_digest(digest, signature)
    if not found:
        raise BadSignature(
            f"header {name}: expected a signature with one of the secrets over this body, "
            "found another"
        )


def _fresh(time: bytes, name: str, now: float) -> int:
    if not time.isdigit() or len(time) > _TIMESTAMP_DIGITS_MAX:
        raise BadSignature(f"header {name}: expected seconds since the epoch, found another value")
    sent_at_s = int(time)
    # Not `> TOLERANCE_S`: a time that is no number is not near.
    if not abs(now - sent_at_s) <= TOLERANCE_S:
        raise BadSignature(
            f"header {name}: expected a time within {TOLERANCE_S} s of now, found one "
            f"{abs(now - sent_at_s):.0f} s {'ago' if sent_at_s < now else 'ahead'}"
        )
    return sent_at_s


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")


def _hex(key: bytes, signed: bytes) -> bytes:
    return _mac(key, signed).hex().encode()


def _digest(signed: bytes) -> str:
    return hashlib.sha256(signed).hexdigest()
