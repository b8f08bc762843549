"""Our rules for subjects against those of a running nats-server.

The client is a raw socket: a client library has rules of its own, which would hide the
server's.  What the wire cannot carry (spaces) goes through JetStream's API, which is JSON.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from random import Random
from types import TracebackType

import pytest

from headrace.engine.subject import check_pattern, check_subject, matches

pytestmark = pytest.mark.nats

# Tokens that are something else wherever a rule could be read wrongly.
TOKENS = ("a", "b", "*", ">", "", "a*", "*>", "é")
TEXTS = sorted({".".join(t) for size in (1, 2, 3) for t in product(TOKENS, repeat=size)} - {""})
SPACES = (" ", "\t", "\n", "\f", "\r", "\v", "\0", "\x85", "\u00a0", "\u2003", "\u2028", "\ufeff")
REPLY_S_MAX = 30.0


class Wire:
    """The text protocol of NATS, with nothing checked on this side."""

    def __init__(self, address: tuple[str, int], *, pedantic: bool = False) -> None:
        self._socket = socket.create_connection(address, timeout=REPLY_S_MAX)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = self._socket.makefile("rb")
        assert self._lines.readline().startswith(b"INFO ")
        options = {"verbose": False, "pedantic": pedantic}
        self.send(f"CONNECT {json.dumps(options)}")

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lines.close()
        self._socket.close()

    def send(self, *lines: str) -> None:
        self._socket.sendall("".join(line + "\r\n" for line in lines).encode())

    def publish(self, subject: str, payload: str = "", *, reply: str = "") -> None:
        self.send(f"PUB {subject} {reply} {len(payload.encode())}", payload)

    def read(self) -> list[str]:
        """The parts of the next line that the server sends, and its payload if it has one."""
        parts = ["PING"]
        while parts == ["PING"]:  # the server asks whether we live: not an answer
            parts = self._lines.readline().decode().rstrip("\r\n").split(" ")
        if parts[0] == "MSG":
            payload = self._lines.read(int(parts[-1]) + 2)
            return ["MSG", parts[2], payload[:-2].decode()]
        return parts

    def until_pong(self) -> Iterator[list[str]]:
        """What the server has to say about everything that was sent so far."""
        self.send("PING")
        while (said := self.read())[0] != "PONG":
            yield said


def accepts(check: Callable[[str], None], text: str) -> bool:
    try:
        check(text)
    except ValueError:
        return False
    return True


def differences(ours: dict[str, bool], theirs: dict[str, bool]) -> dict[str, bool]:
    return {text: theirs[text] for text in theirs if ours[text] != theirs[text]}


def random_texts(tokens: Iterable[str], *, seed: int, count: int) -> list[str]:
    chance, tokens = Random(seed), list(tokens)
    return [".".join(chance.choices(tokens, k=chance.randint(2, 8))) for _ in range(count)]


def test_the_server_subscribes_to_what_check_pattern_accepts(
    nats_address: tuple[str, int],
) -> None:
    """A pattern that is accepted here works as a subscription, and one refused does not."""
    theirs = dict.fromkeys(TEXTS, True)
    with Wire(nats_address) as wire:
        for text in TEXTS:
            wire.send(f"SUB {text} 1", "UNSUB 1")
            for said in wire.until_pong():
                assert said == ["-ERR", "'Invalid", "Subject'"]
                theirs[text] = False

    assert differences({t: accepts(check_pattern, t) for t in TEXTS}, theirs) == {}


def test_the_server_publishes_what_check_subject_accepts(nats_address: tuple[str, int]) -> None:
    """An event's subject is one that a strict server takes for a message."""
    theirs = dict.fromkeys(TEXTS, True)
    with Wire(nats_address, pedantic=True) as wire:
        for text in TEXTS:
            wire.publish(text)
            for said in wire.until_pong():
                assert said == ["-ERR", "'Invalid", "Publish", "Subject'"]
                theirs[text] = False

    assert differences({t: accepts(check_subject, t) for t in TEXTS}, theirs) == {}


def test_the_server_refuses_the_same_white_space(nats_address: tuple[str, int]) -> None:
    """A stream can be made of exactly the patterns that are accepted here."""
    shapes = ("{}", "a{}", "{}a", "a{}b", "a.{}", "{}.a", "a.b{}", "{}*", ">{}", "a.{}>", "{0}{0}")
    texts = [shape.format(space) for shape in shapes for space in SPACES]
    theirs = dict[str, bool]()
    with Wire(nats_address) as wire:
        wire.send("SUB made.* 1")
        for text in texts:
            wish = {"name": "S", "subjects": [text], "storage": "memory", "no_ack": True}
            wire.publish("$JS.API.STREAM.CREATE.S", json.dumps(wish), reply="made.it")
            answer = json.loads(wire.read()[2])
            theirs[text] = "error" not in answer
            if theirs[text]:
                wire.publish("$JS.API.STREAM.DELETE.S", reply="made.gone")
                assert json.loads(wire.read()[2])["success"]
            else:
                assert answer["error"]["description"] == "invalid subject"

    assert differences({t: accepts(check_pattern, t) for t in texts}, theirs) == {}


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_the_server_delivers_what_matches(nats_address: tuple[str, int], seed: int | None) -> None:
    """A rule fires on a subject exactly when a NATS subscription would get the message.

    All short texts against all, then long ones; the subjects are not checked first, since
    a server that is not strict passes on everything.
    """
    texts = TEXTS if seed is None else random_texts((*TOKENS, "a", "a", "b"), seed=seed, count=400)
    patterns = [text for text in dict.fromkeys(texts) if accepts(check_pattern, text)]
    chance = Random(seed)
    subjects = chance.sample(texts, k=200)
    theirs = set[tuple[str, str]]()
    with Wire(nats_address) as wire:
        wire.send(*(f"SUB {pattern} {sid}" for sid, pattern in enumerate(patterns)))
        for place, subject in enumerate(subjects):
            wire.publish(subject, str(place))
        for kind, sid, number in wire.until_pong():
            assert kind == "MSG"
            theirs.add((patterns[int(sid)], subjects[int(number)]))

    assert len(theirs) > len(patterns)
    assert {(p, s) for p in patterns for s in subjects if matches(p, s)} == theirs
