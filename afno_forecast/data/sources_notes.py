"""What was noticed while a source was opened: notes, and what was refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from afno_forecast.errors import ForecastError


@dataclass(frozen=True)
class Note:
    """One thing a user should know about a source.

    Args:
        severity: `note` (used, with this remark) or `refused` (not used, for this reason).
        message: one sentence, with what to do when refused.
        where: file and variable.
    """

    severity: Literal["note", "refused"]
    message: str
    where: str = ""


def lines(notes: Sequence[Note], severity: Literal["note", "refused"], folders: Sequence[str] = ()) -> tuple[str, ...]:
    """One line for each message of a severity, with the places where it holds; files in `folders` are called by their names alone."""
    places: dict[str, list[str]] = {}
    for note in notes:
        if note.severity == severity:
            places.setdefault(note.message, []).append(note.where)
    made = []
    for message, found in places.items():
        where = found[0]
        for folder in folders:
            where = where.replace(f"{folder}/", "")
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        made.append(f"{where}{more}: {message}" if where else message)
    return tuple(made)


def tell(notes: Sequence[Note], folders: Sequence[str] = ()) -> tuple[str, ...]:
    """Every remark and every refusal, one line each as in `lines`, refusals marked as such and last."""
    return (*lines(notes, "note", folders), *(f"refused: {line}" for line in lines(notes, "refused", folders)))


@dataclass
class Ledger:
    """Collects notes; with `report_only` it also collects the errors that would otherwise be raised.

    Args:
        report_only: remember errors, and go on.
        fill_absent: chunks that a zarr store lacks hold its fill value by intent.
        boundary: how a box continues over its edges where its file does not say.
    """

    report_only: bool = False
    fill_absent: bool = False
    boundary: Literal["periodic", "open"] | None = None
    num_fatal: int = 0
    _notes: dict[Note, None] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[Note, ...]:
        """Every note once, in the order they came."""
        return tuple(self._notes)

    def note(self, message: str, where: str = "") -> None:
        """Remember a remark, once."""
        self._add(Note("note", message, where))

    def refuse(self, message: str, where: str = "") -> None:
        """Remember that something is not used, and why."""
        self._add(Note("refused", message, where))

    def fail(self, error: ForecastError) -> None:
        """Raise the error or, when only a report is wanted, remember it."""
        if not self.report_only:
            raise error
        self.num_fatal += 1
        self._add(Note("refused", f"{error.what}; {error.fix}" if error.fix else error.what, error.where))

    def _add(self, note: Note) -> None:
        self._notes[note] = None
