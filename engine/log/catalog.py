"""`Catalog`: the list of segments of an open log, which several threads change in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable

from headrace.engine.log import manifest as manifests
from headrace.engine.log.files import Files
from headrace.engine.log.manifest import Manifest


class Catalog:
    """MANIFEST as it is on disk, and the only way to change it while the log is open.

    The writer adds segments; retention and compression work beside it, in other threads.
    `manifest` may be read by any thread at any time: it is replaced, never changed.
    """

    def __init__(self, files: Files, folder: str, manifest: Manifest) -> None:
        """Go on with *manifest*, which is on disk."""
        self._files = files
        self._folder = folder
        self._lock = threading.Lock()
        self.manifest = manifest

    def change(self, change: Callable[[Manifest], Manifest]) -> Manifest:
        """Put what *change* makes of the list in its place, durably, and return it.

        Raises:
            OSError: power loss may show the old list or the new; `manifest` is the old one.
        """
        with self._lock:
            changed = change(self.manifest)
            manifests.store(self._files, self._folder, changed)
            self.manifest = changed
        return changed
