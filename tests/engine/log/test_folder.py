"""The directory of a log: which file system it is on."""

from __future__ import annotations

import pytest
from tests.simulation.disk import Inode, SimulatedDisk

from headrace.engine.errors import LogUnusable
from headrace.engine.log import FileLog
from headrace.engine.log.folder import NETWORK_FILE_SYSTEMS, file_system_of

MOUNTS = """\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 21 0:40 / /mnt/plant rw,relatime shared:9 - nfs4 server:/plant rw
31 30 0:41 / /mnt/plant/local\\040disk rw - xfs /dev/sdb rw
32 21 0:42 / /mnt/over rw - ext4 /dev/sdc rw
33 21 0:43 / /mnt/over rw - cifs //server/over rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/log", "ext4"),
        ("/mnt/plant", "nfs4"),
        ("/mnt/plant/a/log", "nfs4"),
        ("/mnt/plantation/log", "ext4"),
        ("/mnt/plant/local disk/log", "xfs"),
        ("/mnt/over/log", "cifs"),
    ],
)
def test_file_system_of_a_path(path: str, kind: str) -> None:
    """The longest mount point counts, by whole names, and the last of equal ones."""
    assert file_system_of(path, MOUNTS) == kind


def test_network_file_system_is_refused() -> None:
    """Where locks and syncs may not hold a log is only opened if that was asked for."""
    disk = SimulatedDisk()
    disk.names["/proc/self/mountinfo"] = mounts = Inode()
    mounts.data = bytearray(MOUNTS.encode())
    disk.folders |= {"/mnt", "/mnt/plant"}
    with pytest.raises(LogUnusable, match=r"network file system \(nfs4\).*allow_network_fs"):
        FileLog("/mnt/plant/log", files=disk).open(lambda: None)
    assert "/mnt/plant/log" not in disk.folders
    log = FileLog("/mnt/plant/log", files=disk, allow_network_fs=True, reserve_bytes=0)
    log.open(lambda: None)
    log.close()
    assert "nfs4" in NETWORK_FILE_SYSTEMS
