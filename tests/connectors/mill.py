"""A source and a sink of a package that somebody else has installed, for tests of files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from headrace import Emission
from headrace.connectors.intake import Intake
from headrace.connectors.promises import Promise
from headrace.connectors.protocol import ConnectorError

if TYPE_CHECKING:
    from ssl import SSLContext

CODE = __file__


class Mill:
    promise: Promise = "exactly once"

    def __init__(
        self,
        url: str,
        *,
        name: str = "mill",
        topics: Sequence[str] = (),
        port: int = 80,
        every_s: float = 1.0,
        keep: bool = False,
        mode: Literal["fast", "slow"] = "fast",
        headers: Mapping[str, str] | None = None,
        payload: Literal["json", "text"] | Callable[[bytes], Any] = "json",
        tls: SSLContext | None = None,
        read: Callable[[bytes], Any] | None = None,
    ) -> None:
        if "bad" in url:
            raise ValueError(f"Mill, url: expected another address, found {url!r}; change it")
        self.url, self.name, self.topics, self.port = url, name, topics, port
        self.every_s, self.keep, self.mode, self.headers = every_s, keep, mode, headers

    async def run(self, intake: Intake) -> None:
        if "gone" in self.url:
            raise ConnectorError(f"{self.name}: expected a mill, found none; build one")
        intake.connected(topics=len(self.topics))
        events = [Emission(topic, {"n": n}, str(n)) for n, topic in enumerate(self.topics)]
        await intake.put(events)

    async def probe(self) -> str:
        if "gone" in self.url:
            raise ConnectorError(f"{self.name}: expected a mill, found none; build one")
        return f"a mill with {len(self.topics)} topics"


class MillSink:
    message_type: Any = dict[str, Any]
    result_type: Any = None

    def __init__(self, path: str, *, name: str = "mill", timeout: float = 1.0) -> None:
        self.path, self.name, self.timeout = path, name, timeout

    def message_of(self, subject: str, data: Any) -> dict[str, Any]:
        return {"subject": subject, "data": data}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *details: object) -> None:
        """Do nothing."""

    async def send(self, message: dict[str, Any], *, key: str) -> None:
        with open(self.path, "a", encoding="utf-8") as file:  # noqa: ASYNC230, PTH123
            file.write(f"{message['subject']} {message['data']}\n")
