"""How a run's columns differ: training from evaluation rows, and both from a champion's."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import types

from tzrec_core.report import drift
from tzrec_core.report.drift import Drift

log = logging.getLogger(__name__)

_LEFT_OUT = ("@id", "@cost")
_SLICE = "@slice"


@dataclass(frozen=True)
class ColumnDrift:
    """A column of the data.

    Attributes:
        name: Of the column.
        is_number: Whether it holds quantities, not ids or text.
        of_eval: Evaluation rows against training rows.
        of_champion: Training rows against the champion's; None if they cannot be compared.
    """

    name: str
    is_number: bool
    of_eval: Drift | None
    of_champion: Drift | None

    @property
    def largest(self) -> float:
        """The larger PSI; 0 without one."""
        known = [d.psi for d in (self.of_eval, self.of_champion) if d is not None]
        return max((value for value in known if value == value), default=0.0)


def references(train: pa.Table, stats: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what ``drift_reference.json`` holds: the bins of each column, and its shares.

    Keys of groups and costs are left out: groups differ where rows are split by them.

    Args:
        train: Encoded rows in random order.
        stats: Content of ``_stats.json``, which knows of which columns there are moments.
    """
    columns = {}
    for name in train.column_names:
        if name.endswith(_LEFT_OUT):
            continue
        described = stats["train"]["columns"].get(name, {})
        kind = train.schema.field(name).type
        is_quantity = types.is_integer(kind) or types.is_floating(kind)
        is_number = "mean" in described or (name.endswith(_SLICE) and is_quantity)
        bins = drift.reference(train[name], is_number=is_number)
        if "num_embeddings" in described:
            bins["num_embeddings"] = described["num_embeddings"]
        columns[name] = bins
    return {"rows": len(train), "columns": columns}


def without_rows(stats: Mapping[str, Any]) -> list[ColumnDrift]:
    """Returns the columns whose statistics are known, though their rows are gone."""
    return [
        ColumnDrift(name, "mean" in described, of_eval=None, of_champion=None)
        for name, described in stats["train"]["columns"].items()
        if not name.endswith(_LEFT_OUT)
    ]


def compare(
    reference: Mapping[str, Any],
    train: pa.Table,
    evaluation: pa.Table | None,
    champion: Mapping[str, Any] | None,
) -> list[ColumnDrift]:
    """Returns the drift of each column, the largest first.

    Args:
        reference: Of the training rows, from ``references``.
        train: The training rows.
        evaluation: The evaluation rows.
        champion: ``references`` of the champion's training rows; None if unknown.
    """
    found = []
    of_champion = {} if champion is None else champion["columns"]
    for name, bins in reference["columns"].items():
        of_eval = None
        if evaluation is not None and name in evaluation.column_names:
            of_eval = drift.psi(bins, drift.count(bins, evaluation[name]))
        found.append(
            ColumnDrift(
                name=name,
                is_number=bins["kind"] == "numbers",
                of_eval=of_eval,
                of_champion=_against(of_champion.get(name), bins, train[name]),
            )
        )
    return sorted(found, key=lambda column: (-column.largest, column.name))


def _against(
    old: Mapping[str, Any] | None, new: Mapping[str, Any], column: pa.ChunkedArray
) -> Drift | None:
    """Compares with the champion's bins, if the two encode alike."""
    if old is None or old["kind"] != new["kind"]:
        return None
    if old.get("num_embeddings") != new.get("num_embeddings"):
        return None
    try:
        return drift.psi(old, drift.count(old, column))
    except ValueError as error:
        log.warning("drift from the champion's data: %s", error)
        return None
