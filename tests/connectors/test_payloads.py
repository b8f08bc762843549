"""Bytes of messages, names as tokens, addresses without secrets."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.connectors.addresses import address, masked
from headrace.connectors.payloads import BadPayload, reader
from headrace.connectors.protocol import ConnectorError
from headrace.connectors.tokens import text_of, token_of
from headrace.engine.subject import check_emit


@given(st.text())
def test_any_text_is_a_token_and_comes_back(text: str) -> None:
    """Without loss, as one token of a valid subject, and no other text becomes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    token = token_of(text)
    assert "." not in token
    check_emit(f"a.{token}")
    assert text_of(token) == text


def test_tokens_are_readable() -> None:
    """What can stand in a token stands there as it is."""
    assert token_of("t-1_ä") == "t-1_ä"
    assert token_of("a.b *") == "a%2Eb%20%2A"
    assert token_of("") == "%"


@pytest.mark.parametrize("token", ["%zz", "%2e", "%41", "a%", "%FF", "a b"])
def test_token_that_no_text_becomes_is_refused(token: str) -> None:
    """So the way back cannot make one topic of two subjects."""
    with pytest.raises(ValueError, match=r"token|decode"):
        text_of(token)


@pytest.mark.parametrize(
    ("form", "raw", "data"),
    [
        ("json", b'{"a": [1, "x"]}', {"a": [1, "x"]}),
        ("msgpack", b"\x93\x01\x02\x03", [1, 2, 3]),
        ("text", "grün".encode(), "grün"),
        ("bytes", b"\xff", b"\xff"),
        (lambda raw: raw.decode().split(), b"a b", ["a", "b"]),
    ],
)
def test_payloads_are_read(form: Any, raw: bytes, data: object) -> None:
    """In each form."""
    assert reader(form, "x")(raw) == data


@pytest.mark.parametrize(
    ("form", "raw", "why"),
    [
        ("json", b"{", "truncated"),
        ("json", b'"\xff"', "(?i)utf-8"),
        ("json", b"[" * 65 + b"]" * 65, "at most 64 levels"),
        ("json", b"[" * 100_000, "(?i)nested|truncated|recursion"),
        ("msgpack", b"\xc1", "MessagePack"),
        ("msgpack", b"\x91" * 65 + b"\x01", "at most 64 levels"),
        ("text", b"\xff", "UTF-8"),
        (int, b"x", "invalid literal"),
    ],
)
def test_bad_payloads_are_refused_in_one_line(form: Any, raw: bytes, why: str) -> None:
    """Says what was expected and what was found, however long it is."""
    with pytest.raises(BadPayload, match=why) as caught:
        reader(form, "x")(raw)
    assert len(str(caught.value)) < 400


def test_sixty_four_levels_are_read() -> None:
    """The bound itself is in."""
    assert reader("json", "x")(b"[" * 64 + b"]" * 64)


def test_unknown_form_is_refused() -> None:
    """Where it is written."""
    with pytest.raises(ValueError, match="expected json, msgpack, text, bytes or a function"):
        reader("xml", "topic")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mqtt://ann:s3cr3t@host:1883/x", "mqtt://***@host:1883/x"),
        ("cannot connect to nats://tok@h and redis://:p@g", "cannot connect to nats://***@h and redis://***@g"),
        ("https://h/?api_key=abc&x=1", "https://h/?api_key=***&x=1"),
        ("postgres://h/db?user=a&password=b", "postgres://h/db?user=a&password=***"),
        ("http://host/a@b", "http://host/a@b"),
    ],
)  # fmt: skip
def test_secrets_are_masked(text: str, shown: str) -> None:
    """In addresses, and in errors that hold some."""
    assert masked(text) == shown


@pytest.mark.parametrize("url", ["localhost:1883", "http://h", "mqtt://", "mqtt://h:99999", ""])
def test_wrong_addresses_are_refused(url: str) -> None:
    """With what is expected."""
    with pytest.raises(ConnectorError, match="expected an address"):
        address(url, "mqtt source 'line'", ("mqtt", "mqtts"))


@pytest.mark.parametrize("error", [KeyError("a"), struct.error("too short"), ZeroDivisionError()])
def test_whatever_a_parser_of_ones_own_raises_is_a_bad_message(error: Exception) -> None:
    """One that ended the source would come again after the restart, and end it again."""

    def parse(raw: bytes) -> Any:
        raise error

    with pytest.raises(BadPayload, match=type(error).__name__):
        reader(parse, "here")(b"x")
