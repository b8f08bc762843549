"""Control of the tests of retention: each seeded bug must be caught by one of them.

As `test_log_mutants`, which has those of the rest of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from tests.simulation import test_log_retention as checks

from headrace.engine.errors import LogError
from headrace.engine.log import lease, manifest, recovery, retention
from headrace.engine.log.catalog import Catalog
from headrace.engine.log.manifest import Manifest, Segment
from headrace.engine.log.segment import name_of

Patch = pytest.MonkeyPatch


def power_loss() -> None:
    for calls_done in range(0, len(checks.calls()), 2):
        checks.lose_power(calls_done, "fsynced", 0)


def unlink_before_list(patch: Patch) -> None:
    """Segments are deleted before the list says that they are gone."""
    original = retention._unlist

    def unlist(
        catalog: Catalog,
        policy: retention.Policy,
        needs: list[retention.Need],
        extent: retention.Extent,
    ) -> tuple[Manifest, list[Segment]]:
        for entry in retention.removable(catalog.manifest, policy, needs, extent):
            catalog._files.unlink(f"{catalog._folder}/{name_of(entry.base)}")
        return original(catalog, policy, needs, extent)

    patch.setattr(retention, "_unlist", unlist)


def unsynced_list(patch: Patch) -> None:
    """The list is put in place, and nobody waits for it to be durable."""

    def change(catalog: Catalog, change: Callable[[Manifest], Manifest]) -> Manifest:
        changed = change(catalog.manifest)
        temporary = f"{catalog._folder}/{manifest.NAME}.tmp"
        fd = catalog._files.open(temporary, 0o1101)
        catalog._files.pwrite(fd, manifest.encode(changed), 0)
        catalog._files.close(fd)
        catalog._files.rename(temporary, f"{catalog._folder}/{manifest.NAME}")
        catalog.manifest = changed
        return changed

    patch.setattr(Catalog, "change", change)


def believe_the_list(patch: Patch) -> None:
    """A restart takes the list that it finds for one that power loss cannot take back."""
    patch.setattr(recovery, "_durable_list", manifest.load)


def ignore_leases(patch: Patch) -> None:
    """What readers need is not looked at."""
    patch.setattr(retention, "living", lambda *_args, **_kwargs: [])


def ignore_late_leases(patch: Patch) -> None:
    """Nobody looks for readers that came after the first look."""
    patch.setattr(retention, "_leases_after", lambda _files, _folder: [])


def lease_too_far(patch: Patch) -> None:
    """A reader gives up what it has not read yet."""
    original = lease.Lease.move

    def move(self: lease.Lease, sequence: int) -> None:
        original(self, sequence + 20)

    patch.setattr(lease.Lease, "move", move)


def ignore_holds(patch: Patch) -> None:
    """Legal holds are noted and not honoured."""
    patch.setattr(retention, "_holds_of", lambda _manifest: [])


def one_too_many(patch: Patch) -> None:
    """The segment goes, too, that holds the limit."""
    original = retention.removable

    def removable(
        listed: Manifest,
        policy: retention.Policy,
        needs: Iterable[retention.Need],
        extent: retention.Extent,
    ) -> list[Segment]:
        shifted = [retention.Need(need.sequence + 10, need.reason) for need in needs]
        return original(listed, policy, shifted, extent)

    patch.setattr(retention, "removable", removable)


def forget_orphans(patch: Patch) -> None:
    """What a removal that was cut short has left is never deleted."""
    patch.setattr(recovery, "remove_orphans", lambda *_args: None)


MUTANTS: list[tuple[Callable[[Patch], None], Callable[[], None]]] = [
    (unlink_before_list, power_loss),
    (unsynced_list, power_loss),
    (believe_the_list, checks.test_power_loss_after_a_restart),
    (ignore_leases, checks.leases_are_honoured),
    (ignore_late_leases, checks.late_leases_are_honoured),
    (lease_too_far, checks.leases_are_honoured),
    (ignore_holds, power_loss),
    (one_too_many, power_loss),
    (forget_orphans, checks.test_kill_after_every_operation),
]


@pytest.mark.parametrize(("seed", "check"), MUTANTS, ids=lambda f: getattr(f, "__name__", ""))
def test_seeded_bug_is_caught(
    seed: Callable[[Patch], None], check: Callable[[], None], monkeypatch: Patch
) -> None:
    """A test of retention that passes with this bug would be worth nothing."""
    seed(monkeypatch)
    with pytest.raises((AssertionError, LogError)):
        check()


OTHERS = [check for _, check in MUTANTS if not getattr(check, "__name__", "").startswith("test_")]
"""The checks that are no tests themselves."""


@pytest.mark.parametrize("check", dict.fromkeys(OTHERS))
def test_checks_pass_without_a_bug(check: Callable[[], None]) -> None:
    """The checks that the mutants must fail do not fail by themselves."""
    check()
