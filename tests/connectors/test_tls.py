"""The certificates that settings name: what is wrong with them is said, by every connector."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.needs import program

from headrace.connectors.kafka_sink import KafkaSink
from headrace.connectors.mqtt_sink import MqttSink
from headrace.connectors.nats import NatsSink
from headrace.connectors.postgres_sink import PostgresSink
from headrace.connectors.protocol import ConnectorError
from headrace.connectors.redis_stream import RedisStreamSink
from headrace.connectors.tls import TlsFiles

NOBODY = "127.0.0.1:1"


async def kafka(**files: Any) -> None:
    async with KafkaSink(NOBODY, "t", security="SSL", **files):
        """It has read the files."""


async def mqtt(**files: Any) -> None:
    MqttSink(f"mqtts://{NOBODY}", **files)


async def nats(**files: Any) -> None:
    await NatsSink(f"tls://{NOBODY}", **files).probe()


async def postgres(**files: Any) -> None:
    async with PostgresSink(f"postgresql://u@{NOBODY}/d", "t", **files):
        """It has read the file."""


async def redis(**files: Any) -> None:
    async with RedisStreamSink(f"rediss://{NOBODY}", "s", **files):
        """It has read the files."""


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate, and beside it its key, which has a password."""
    folder = tmp_path_factory.mktemp("tls")
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run(
        [
            program("openssl", package="openssl"), *made, "-passout", "pass:sesame", "-keyout",
            "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost", "-days", "2",
        ],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem"


@pytest.fixture
def anyio_backend() -> str:
    """What most of the libraries are made for."""
    return "asyncio"


ALL = pytest.mark.parametrize("opened", [kafka, mqtt, nats, postgres, redis])
WITH_KEYS = pytest.mark.parametrize("opened", [kafka, mqtt, nats, redis])


@ALL
async def test_what_holds_no_certificates_is_said(
    opened: Callable[..., Any], tmp_path: Path
) -> None:
    """At once, and not as a server that is gone, which would be tried again for ever."""
    (tmp_path / "no.pem").write_text("no certificate")
    for name in ("no.pem", "nowhere.pem"):
        with pytest.raises(ConnectorError, match=rf"ca_file: expected a PEM file .*{name}', found"):
            await opened(ca_file=str(tmp_path / name))


@WITH_KEYS
async def test_a_key_with_a_password_is_no_question_at_a_terminal(
    opened: Callable[..., Any], locked: Path
) -> None:
    """A service has nobody who could answer it."""
    key = str(locked.with_name("key.pem"))
    with pytest.raises(ConnectorError, match=r"its key without a password at '.*cert\.pem'"):
        await opened(cert_file=str(locked), key_file=key)


@WITH_KEYS
async def test_a_key_alone_is_refused(opened: Callable[..., Any]) -> None:
    """It would not be used, and who gave it believes to be known by it."""
    with pytest.raises(ValueError, match="key_file: expected a cert_file beside it"):
        await opened(key_file="key.pem")


def test_files_of_an_address_without_tls_are_refused() -> None:
    """Who names them believes that nobody can listen."""
    with pytest.raises(ValueError, match="ca_file: expected an address rediss:// beside it"):
        RedisStreamSink("redis://localhost", "s", ca_file="ca.pem")
    with pytest.raises(ValueError, match="cert_file: expected an address mqtts:// beside it"):
        MqttSink("mqtt://localhost", cert_file="cert.pem")
    with pytest.raises(ValueError, match="ca_file: expected security SSL or SASL_SSL beside it"):
        KafkaSink("localhost:9092", "t", ca_file="ca.pem")


def test_a_name_that_no_file_can_have_is_one_of_none() -> None:
    """Not an error of another kind, for which nobody looks."""
    for ca_file, cert_file in (("a\0", None), (None, "a\0")):
        with pytest.raises(ConnectorError, match=r"'a\\x00', found: embedded null"):
            TlsFiles.checked("x", ca_file, cert_file, None).context()
