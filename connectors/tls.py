"""`TlsFiles`: the certificates that a connector's settings name, and what TLS makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from msgspec import Struct

from headrace.connectors.checks import check_maybe_text
from headrace.connectors.protocol import ConnectorError

if TYPE_CHECKING:
    from ssl import SSLContext


class TlsFiles(Struct, frozen=True):
    """Whom to trust, and who we are."""

    place: str
    """How errors call the connector."""
    ca_file: str | None
    """``None``: those whom the system trusts."""
    cert_file: str | None
    key_file: str | None
    """``None``: the key is in *cert_file*."""

    @classmethod
    def checked(cls, place: str, ca_file: Any, cert_file: Any, key_file: Any) -> Self:
        """Check the settings; nothing is read yet.

        Raises:
            TypeError, ValueError: they cannot work.
        """
        files = cls(
            place,
            check_maybe_text(place, "ca_file", ca_file),
            check_maybe_text(place, "cert_file", cert_file),
            check_maybe_text(place, "key_file", key_file),
        )
        if key_file and not cert_file:
            raise ValueError(f"{place}, key_file: expected a cert_file beside it, found none")
        return files

    def given(self) -> str | None:
        """Return the name of a setting that names a file; ``None``: none does."""
        names = ("ca_file", "cert_file", "key_file")
        return next((name for name in names if getattr(self, name)), None)

    def context(self) -> SSLContext:
        """Return how TLS is spoken, from the files as they are now: they may be replaced.

        Raises:
            ConnectorError: one cannot be read, or is none of its kind.
        """
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ValueError) as error:
            raise ConnectorError(
                f"{self.place}, ca_file: expected a PEM file of certificates at {self.ca_file!r}, "
                f"found: {_reason(error)}"
            ) from None
        if self.cert_file:
            try:
                # An empty password: a key that has one is an error, not a question at a terminal.
                context.load_cert_chain(self.cert_file, self.key_file, password="")
            except (OSError, ValueError) as error:
                key = f" and {self.key_file!r}" if self.key_file else ""
                raise ConnectorError(
                    f"{self.place}, cert_file: expected PEM files of a certificate and its key "
                    f"without a password at {self.cert_file!r}{key}, found: {_reason(error)}"
                ) from None
        return context


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
