"""What connectors say of connections that failed."""

from __future__ import annotations

import errno
import socket
import ssl

import anyio
import pytest

from headrace.connectors.checks import reason


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), "Connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "WRONG_VERSION"),
        (OSError("a\nreason of ours"), "a reason of ours"),
        (TimeoutError(), "TimeoutError"),
        (ExceptionGroup("all", [OSError("one"), OSError(errno.EHOSTUNREACH, "x")]), "No route"),
    ],
)
def test_a_failed_connection_is_said_as_people_say_it(error: Exception, said: str) -> None:
    """Also where a library raises it as the cause of an error that says nothing."""
    wrapped = OSError("All connection attempts failed")
    wrapped.__cause__ = error

    assert said in reason(error)
    assert reason(wrapped) == reason(error)


async def test_nobody_at_a_port_is_said_on_every_loop() -> None:
    """Whatever kind of error a loop makes of it."""
    with pytest.raises(OSError) as refused:
        await anyio.connect_tcp("127.0.0.1", 1)

    assert reason(refused.value) == "Connection refused"
