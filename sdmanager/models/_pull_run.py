"""One pull, from looking up to listing."""

from __future__ import annotations

import datetime
import hashlib
from typing import TYPE_CHECKING

from sdmanager.errors import ModelComponentMissingError, ModelError, SDManagerError, StorageError
from sdmanager.files import free_bytes
from sdmanager.threads import in_thread

from ._composing import Candidate, Composed, check_role, compose
from ._hub import Fetched, FilePlan, HubFaultError, Order, fetch
from ._hub_parts import ROOM_TO_SPARE
from ._pull_faults import fault_of, gone_meanwhile, no_room, replaced, size_text
from ._pull_fit import check_machine
from ._pull_journal import JOURNALS_NAME, Journal, Noted
from ._pull_leaving import Times, discard
from ._pull_progress import OnPull, Tracker
from ._pull_sharing import turn
from ._pull_wanted import Wanted, find_installed
from .families import Role
from .inspection import FileFacts, inspect_file
from .installed import InstalledFile, InstalledModel, Origin
from .store import ModelStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sdmanager.settings import Settings

    from .catalog import CatalogFile


class Pull:
    """One pull, from looking up to listing."""

    def __init__(self, wanted: Wanted, settings: Settings, report: OnPull) -> None:
        self._wanted = wanted
        self._settings = settings
        self._store = ModelStore(settings)
        self._tracker = Tracker(wanted.name, report)
        # Names differ by case alone on no system; the digest keeps them short.
        stem = hashlib.sha256(wanted.name.casefold().encode()).hexdigest()[:32]
        self._place = settings.state_dir / JOURNALS_NAME / stem
        self._journal = Journal(self._place.with_suffix(".json"))
        self._plans: list[FilePlan] = []
        self._ours: frozenset[str] = frozenset()
        self._times = Times(())

    async def run(self) -> InstalledModel:
        """Fetch, check and list it."""
        lock = self._place.with_suffix(".lock")
        async with turn(lock, lambda: self._tracker.begin("waiting")):
            found = await in_thread(find_installed, self._wanted, self._settings)
            if found is not None:
                self._tracker.finish([file.size for file in found.files])
                return found
            self._tracker.begin("planning")
            await self._check_fit([file.bytes for file in self._wanted.files])
            try:
                model = await self._fetch_and_list()
            except Exception as exc:
                # What came whole stays ours, and the next pull goes on with it.
                kept = await in_thread(self._settle)
                if kept and isinstance(exc, SDManagerError):
                    exc.hint = " ".join(
                        filter(None, (exc.hint, f"{size_text(kept)} are kept for the next try."))
                    )
                raise
            except BaseException:
                await in_thread(self._discard)
                raise
            self._tracker.finish([file.size for file in model.files])
            return model

    async def _fetch_and_list(self) -> InstalledModel:
        wanted = self._wanted
        order = Order(
            wanted.files,
            wanted.force,
            wanted.token,
            self._place.with_suffix(".go"),
            self._judge,
            self._tracker.advance,
            self._tracker.restart,
        )
        try:
            fetched = await fetch(order, self._settings)
        except HubFaultError as fault:
            index = fault.facts.get("file")
            file = wanted.files[index] if isinstance(index, int) else None
            raise fault_of(fault.facts, file, wanted.name, gated=wanted.gated) from None
        return await in_thread(self._list, fetched)

    async def _judge(self, plans: Sequence[FilePlan], cache: Path) -> None:
        """See that everything is what was asked for and fits, before anything is transferred."""
        self._plans = list(plans)
        wanted = self._wanted
        for file, plan in zip(wanted.files, plans, strict=True):
            _check_plan(file, plan, wanted.name)
        sizes = [plan.size or file.bytes for file, plan in zip(wanted.files, plans, strict=True)]
        await self._check_fit(sizes)
        needed = sum(size for size, plan in zip(sizes, plans, strict=True) if plan.fetch)
        await in_thread(self._prepare, needed, cache)
        names = [file.path.rpartition("/")[2] for file in wanted.files]
        self._tracker.plan(names, sizes, held=[not plan.fetch for plan in plans])

    async def _check_fit(self, sizes: Sequence[int]) -> None:
        """By the catalogue's sizes before the hub is asked, and by the hub's own before anything is transferred."""
        if not self._wanted.ignore_fit:
            by_role = {file.role: size for file, size in zip(self._wanted.files, sizes, strict=True)}
            await check_machine(self._wanted, by_role, self._settings)

    def _prepare(self, needed: int, cache: Path) -> None:
        free = free_bytes(cache)
        if needed and free is not None and needed + ROOM_TO_SPARE > free:
            raise no_room(self._wanted.name, needed, ROOM_TO_SPARE, free, str(cache))
        files = {Noted(plan.pointer, plan.blob) for plan in self._plans}
        with self._store.undisturbed():  # nobody removes what is there between our look and our note
            left = self._journal.read()
            fetched = self._journal.others_fetch() | {noted.pointer for noted in left}
            # What another model has, or its pull fetches, is of both: whichever goes first, the other keeps it.
            fetched |= {str(file.path) for model in self._store.list() for file in model.files if file.owned}
            fetched |= {plan.pointer for plan in self._plans if not plan.cached}
            ours = {noted for noted in files if noted.pointer in fetched or not noted.exists()}
            self._ours = frozenset(noted.pointer for noted in ours)
            self._journal.write(ours | left, files - ours)
        self._times = Times(plan.pointer for plan in self._plans)

    def _list(self, fetched: Sequence[Fetched]) -> InstalledModel:
        files = []
        defaults, family = self._wanted.defaults, self._wanted.family
        for file, found in zip(self._wanted.files, fetched, strict=True):
            if not found.path.exists():
                raise gone_meanwhile(file, self._wanted.name)
            try:
                facts = inspect_file(found.path, allow_pickle=self._settings.allow_pickle)
                if self._wanted.by_header:
                    role = check_role(Role.MODEL, found.path, facts)
                # A digest of the catalogue says more than a header does.
                else:
                    role = file.role if file.sha256 else check_role(file.role, found.path, facts)
            except ModelError:
                self._discard_one(found)
                raise
            if self._wanted.by_header:
                composed = _composed(found.path, facts)
                defaults, family = composed.defaults, composed.family
            files.append(
                _installed_file(role, found, file.repo, facts.quantisation, owned=self._is_ours(found))
            )
        now = datetime.datetime.now(datetime.UTC)
        model = InstalledModel(self._wanted.name, tuple(files), defaults, family, Origin.PULLED, now)
        model = self._store.add(model)
        self._times.renew(self._store)
        # An earlier pull may have left what is not wanted any more.
        mine = {plan.pointer for plan in self._plans}
        if self._delete([noted for noted in self._journal.read() if noted.pointer not in mine]):
            self._journal.close()
        return model

    def _is_ours(self, found: Fetched) -> bool:
        return str(found.path) in self._ours

    def _discard_one(self, found: Fetched) -> None:
        if self._is_ours(found):
            self._delete([Noted(str(found.path), str(found.path.resolve()))])

    def _discard(self) -> None:
        """Delete what this pull has fetched; what an earlier one that failed had left goes with it."""
        listed = self._listed()
        gone = [noted for noted in self._journal.read() if noted.pointer not in listed]
        if self._delete(gone):
            self._journal.close()
        else:
            self._journal.settle(listed)
        self._times.renew(self._store)

    def _settle(self) -> int:
        kept = self._journal.settle(self._listed())
        self._times.renew(self._store)
        return kept

    def _listed(self) -> frozenset[str]:
        return frozenset(str(file.path) for model in self._store.list() for file in model.files)

    def _delete(self, files: Iterable[Noted]) -> bool:
        try:
            discard(files, self._journal.path, self._store, self._settings)
        except StorageError:
            return False
        return True


def _check_plan(file: CatalogFile, plan: FilePlan, name: str) -> None:
    if not plan.asked:
        return
    is_digest = plan.etag is not None and len(plan.etag) == hashlib.sha256().digest_size * 2
    if file.sha256 is not None and is_digest and plan.etag != file.sha256:
        raise replaced(file, name, {"expected": file.sha256, "actual": plan.etag})
    if file.size is not None and plan.size is not None and plan.size != file.size:
        raise replaced(file, name, {"expected_bytes": file.size, "actual_bytes": plan.size})


def _composed(path: Path, facts: FileFacts) -> Composed:
    try:
        return compose([Candidate(path, facts)])
    except ModelComponentMissingError as exc:
        raise ModelComponentMissingError(
            exc.message,
            hint=f"Run 'sdmanager models import' with its parts and this file, which stays at {path}.",
            details=exc.details,
        ) from None


def _installed_file(
    role: Role, found: Fetched, repo: str, quantisation: str | None, *, owned: bool
) -> InstalledFile:
    seen = found.path.stat()
    return InstalledFile(
        role, found.path.absolute(), seen.st_size, seen.st_mtime_ns, found.sha256, owned, repo, found.commit,
        quantisation,
    )  # fmt: skip
