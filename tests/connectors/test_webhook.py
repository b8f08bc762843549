"""Signatures of webhooks: what their specifications publish, and that nothing else is taken."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.connectors.webhook import BadSignature, Delivery, verify
from headrace.engine.errors import HeadraceError

NOW = 1_700_000_000
SECRET = "s3cr3t-for-tests"
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow"
    b"&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner"
    b"&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands"
    b"%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)


def hexed(secret: str, signed: bytes) -> str:
    return hmac.digest(secret.encode(), signed, "sha256").hex()


def github(body: bytes, secret: str = SECRET, now: int = NOW) -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + hexed(secret, body), "X-GitHub-Delivery": "d-1"}


def stripe(body: bytes, secret: str = SECRET, now: int = NOW) -> dict[str, str]:
    return {"Stripe-Signature": f"t={now},v1={hexed(secret, f'{now}.'.encode() + body)}"}


def slack(body: bytes, secret: str = SECRET, now: int = NOW) -> dict[str, str]:
    return {
        "X-Slack-Request-Timestamp": str(now),
        "X-Slack-Signature": "v0=" + hexed(secret, f"v0:{now}:".encode() + body),
    }


def standard(body: bytes, secret: str = STANDARD_SECRET, now: int = NOW) -> dict[str, str]:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"msg_1.{now}.".encode() + body, "sha256")
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


Signer = Callable[..., dict[str, str]]
SIGNERS: dict[str, Signer] = {
    "github": github, "stripe": stripe, "slack": slack, "standard": standard,
}  # fmt: skip
SECRETS = {"github": SECRET, "stripe": SECRET, "slack": SECRET, "standard": STANDARD_SECRET}
SIGNATURE = {
    "github": "X-Hub-Signature-256",
    "stripe": "Stripe-Signature",
    "slack": "X-Slack-Signature",
    "standard": "webhook-signature",
}
schemes = pytest.mark.parametrize("scheme", list(SIGNERS))
timed = pytest.mark.parametrize("scheme", ["stripe", "slack", "standard"])


# ---------------------------------------------------------------- published


def test_github_as_documented() -> None:
    """The example of its documentation: a real sender is understood."""
    headers = {
        "X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a"
        "37570b6d7586c22c46f4379c8b043e17"
    }
    found = verify("github", ["It's a Secret to Everybody"], headers, b"Hello, World!", NOW)

    assert found == Delivery(None, None)


def test_slack_as_documented() -> None:
    """The example of its documentation."""
    headers = {
        "X-Slack-Request-Timestamp": "1531420618",
        "X-Slack-Signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
    }
    found = verify("slack", "8f742231b10e8888abcd99yyyzzz85a5", headers, SLACK_BODY, 1531420618)

    assert found.sent_at_s == 1531420618
    assert found.id


@pytest.mark.parametrize("secret", [STANDARD_SECRET, STANDARD_SECRET.removeprefix("whsec_")])
def test_standard_webhooks_as_their_library_tests_it(secret: str) -> None:
    """With the prefix of the secret and without it."""
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    body = b'{"test": 2432232314}'

    assert verify("standard", [secret], headers, body, 1614265330) == Delivery(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330
    )
    wrong = headers | {"webhook-signature": headers["webhook-signature"][:-2] + "A="}
    with pytest.raises(BadSignature, match="found another"):
        verify("standard", [secret], wrong, body, 1614265330)


def test_stripe_as_documented() -> None:
    """A time, the scheme v1, and v0 for tests, which is passed over."""
    body = b'{"id": "evt_1"}'
    signature = hexed(SECRET, b"1492774577." + body)
    header = f"t=1492774577,v1={signature},v0=6ffbb59b2300aae63f272406069a9788598b792a"
    found = verify("stripe", [SECRET], {"Stripe-Signature": header}, body, 1492774577)

    assert found.sent_at_s == 1492774577


# ---------------------------------------------------------------- taken


@schemes
def test_signed_webhook_is_taken(scheme: str) -> None:
    """However its headers are written, as text or as bytes."""
    body = b'{"a": "\xc3\xa4"}'
    headers = SIGNERS[scheme](body)
    as_bytes = {name.upper().encode(): value.encode() for name, value in headers.items()}
    found = [
        verify(scheme, [SECRETS[scheme]], given, body, NOW)
        for given in (headers, {n.lower(): v for n, v in headers.items()}, as_bytes)
    ]

    assert found[0] == found[1] == found[2]
    assert found[0].id


@schemes
def test_secrets_are_rotated(scheme: str) -> None:
    """The old one and the new one are both taken, at the sender and here."""
    body, secret = b"{}", SECRETS[scheme]
    other = "whsec_" + base64.b64encode(b"another key").decode()
    headers = SIGNERS[scheme](body)

    assert verify(scheme, [other, secret], headers, body, NOW).id
    with pytest.raises(BadSignature):
        verify(scheme, [other], headers, body, NOW)


@pytest.mark.parametrize("scheme", ["stripe", "standard"])
def test_one_of_several_signatures_is_enough(scheme: str) -> None:
    """A sender that rotates its secret signs with both."""
    body = b"{}"
    headers = SIGNERS[scheme](body)
    name, wrong = SIGNATURE[scheme], {"stripe": ",v1=00", "standard": " v1,AAAA v9,x"}[scheme]
    headers[name] += wrong

    assert verify(scheme, [SECRETS[scheme]], headers, body, NOW).id


@timed
def test_copy_of_a_request_has_its_id(scheme: str) -> None:
    """So that it is not stored again; the same body at another time is another delivery."""
    one, again, later = (
        verify(scheme, SECRETS[scheme], SIGNERS[scheme](b"{}", now=now), b"{}", NOW).id
        for now in (NOW, NOW, NOW + 1)
    )

    assert one == again
    assert scheme == "standard" or one != later


@timed
def test_time_of_a_signature_is_near(scheme: str) -> None:
    """300 s either way, that included."""
    for away in (-300, 300):
        headers = SIGNERS[scheme](b"{}", now=NOW + away)
        assert verify(scheme, SECRETS[scheme], headers, b"{}", NOW).sent_at_s == NOW + away
    for away, said in ((-301, "301 s ago"), (301, "301 s ahead")):
        with pytest.raises(BadSignature, match=said):
            verify(scheme, SECRETS[scheme], SIGNERS[scheme](b"{}", now=NOW + away), b"{}", NOW)


@timed
@pytest.mark.parametrize("now", [float("nan"), float("inf")])
def test_clock_that_says_nothing_lets_nothing_in(scheme: str, now: float) -> None:
    """No comparison with it holds."""
    with pytest.raises(BadSignature):
        verify(scheme, SECRETS[scheme], SIGNERS[scheme](b"{}"), b"{}", now)


# ---------------------------------------------------------------- refused


@schemes
@given(data=st.data(), body=st.binary(max_size=200))
def test_no_flipped_bit_is_taken(scheme: str, data: st.DataObject, body: bytes) -> None:
    """Neither in the body nor in anything that is signed or is a signature."""
    headers = {name: value.encode() for name, value in SIGNERS[scheme](body).items()}
    headers.pop("X-GitHub-Delivery", None)  # the one thing that no signature covers
    parts = {**headers, "": body}
    where = data.draw(st.sampled_from([name for name, value in parts.items() if value]))
    value = bytearray(parts[where])
    value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    parts[where] = bytes(value)

    with pytest.raises(BadSignature):
        verify(scheme, SECRETS[scheme], parts, parts.pop(""), NOW)


@schemes
@given(signature=st.text(max_size=100) | st.binary(max_size=100))
def test_no_made_up_signature_is_taken(scheme: str, signature: Any) -> None:
    """Nor does it raise anything else: any letters may come."""
    headers: dict[str, Any] = {**SIGNERS[scheme](b"{}"), SIGNATURE[scheme]: signature}
    with pytest.raises(BadSignature):
        verify(scheme, SECRETS[scheme], headers, b"{}", NOW)


@schemes
def test_letters_beyond_ascii_are_a_wrong_signature(scheme: str) -> None:
    """`compare_digest` raises a TypeError for such text: no reason to fail otherwise."""
    headers = SIGNERS[scheme](b"{}")
    for letter in ("ä", "\udc80", "٣"):
        for name in headers:
            if name != "X-GitHub-Delivery":
                wrong = headers | {name: headers[name][:-1] + letter}
                with pytest.raises(BadSignature):
                    verify(scheme, SECRETS[scheme], wrong, b"{}", NOW)


@schemes
def test_signature_that_is_missing_or_there_twice_is_refused(scheme: str) -> None:
    """Of two, one would be looked at here and the other one elsewhere."""
    headers = SIGNERS[scheme](b"{}")
    for name in headers:
        if name == "X-GitHub-Delivery":
            continue
        with pytest.raises(BadSignature, match="found none"):
            without = {n: v for n, v in headers.items() if n != name}
            verify(scheme, SECRETS[scheme], without, b"{}", NOW)
        with pytest.raises(BadSignature, match="found it twice"):
            verify(scheme, SECRETS[scheme], {**headers, name.upper() + "": headers[name],
                   name.swapcase(): headers[name]}, b"{}", NOW)  # fmt: skip


@pytest.mark.parametrize(
    ("scheme", "old", "new"),
    [("github", "sha256=", "sha1="), ("stripe", "v1=", "v0="), ("slack", "v0=", "v1="),
     ("standard", "v1,", "v1a,")],
)  # fmt: skip
def test_other_versions_are_never_enough(scheme: str, old: str, new: str) -> None:
    """Even if what stands behind them is right."""
    headers = SIGNERS[scheme](b"{}")
    headers[SIGNATURE[scheme]] = headers[SIGNATURE[scheme]].replace(old, new)
    with pytest.raises(BadSignature, match="found none"):
        verify(scheme, SECRETS[scheme], headers, b"{}", NOW)


def test_time_of_stripe_stands_there_once() -> None:
    """With two, the one that is signed need not be the one that is near."""
    headers = stripe(b"{}")
    headers["Stripe-Signature"] += f",t={NOW}"
    with pytest.raises(BadSignature, match="one t="):
        verify("stripe", SECRET, headers, b"{}", NOW)


def test_time_is_digits() -> None:
    """What `int` takes besides is not: signs, blanks, underscores, a number of any length."""
    for time in ("+1700000000", "1_700_000_000", "17" * 200, ""):
        signed = f"v0:{time}:".encode()
        headers = {
            "x-slack-request-timestamp": time,
            "x-slack-signature": "v0=" + hexed(SECRET, signed),
        }
        with pytest.raises(BadSignature, match="seconds since the epoch"):
            verify("slack", SECRET, headers, b"", NOW)


# ---------------------------------------------------------------- settings


@schemes
@pytest.mark.parametrize("secrets", [[], "", [""], [SECRET, ""], [b""], " ", "whsec_"])
def test_no_secret_is_a_mistake_of_ours(scheme: str, secrets: Any) -> None:
    """Anybody could sign with it; it is not the sender's fault."""
    if scheme == "standard":
        secrets = [STANDARD_SECRET if s == SECRET else s for s in secrets] if secrets else secrets
    with pytest.raises(ValueError, match="expected") as caught:
        verify(scheme, secrets, SIGNERS[scheme](b"{}"), b"{}", NOW)
    assert not isinstance(caught.value, BadSignature)


@pytest.mark.parametrize(
    ("scheme", "secrets", "said"),
    [("gitlab", SECRET, "github, stripe, slack, standard; found 'gitlab'"),
     ("standard", "whsec_???", "base64")],
)  # fmt: skip
def test_what_cannot_work_is_said(scheme: str, secrets: Any, said: str) -> None:
    """By name, and without the secret."""
    with pytest.raises(ValueError, match=said) as caught:
        verify(scheme, secrets, {}, b"", NOW)
    assert "???" not in str(caught.value)


def test_body_is_bytes() -> None:
    """What was decoded and encoded again may have another signature."""
    with pytest.raises(TypeError, match="bytes that came, found str"):
        verify("github", SECRET, {}, "{}", NOW)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="text or bytes, found int"):
        verify("github", [3], {}, b"", NOW)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="a list of texts, found int"):
        verify("github", 3, {}, b"", NOW)  # type: ignore[arg-type]


@schemes
def test_errors_tell_no_secrets(scheme: str) -> None:
    """Neither the secret nor the signature that would have been right."""
    right = SIGNERS[scheme](b"{}")[SIGNATURE[scheme]].rpartition(
        "=" if scheme != "standard" else ","
    )[2]
    with pytest.raises(HeadraceError) as caught:
        verify(scheme, SECRETS[scheme], SIGNERS[scheme](b"other"), b"{}", NOW)

    assert right not in str(caught.value)
    assert SECRETS[scheme] not in str(caught.value)
    assert isinstance(caught.value, BadSignature)
