"""Exact metrics of more rows than fit into memory.

Groups: rows are put into partitions by their key, so that each partition has whole groups.

Pairs of all rows: values are cut into ranges, such that equal ones are in one range. How two rows
of different ranges compare is known from the ranges, so counting the rows of each is enough; rows
of one range are compared with each other, a range at a time.

All ranks must call every function; the rows of each are in ``files``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.exchange import mixed, num_ranks, own_rank, together
from tzrec_core.metrics.group_sums import GroupSums
from tzrec_core.metrics.one_thread import one_thread
from tzrec_core.metrics.order import argsort
from tzrec_core.metrics.pairs import count_concordant_pairs, count_tied_pairs
from tzrec_core.metrics.row_files import Columns, RowFiles
from tzrec_core.metrics.validity import refuse_nan, refuse_not_binary, warn_if_nan

Numbers = npt.NDArray[Any]

_SAMPLES_PER_RANGE = 1024  # ranges then differ by some percent in size
_SPARE_RANGES = 1.25


@dataclass(frozen=True)
class GroupedColumns:
    """A function of (preds, target, keys) of whole groups, and the columns of the first two."""

    function: Callable[[Tensor, Tensor, Tensor], GroupSums]
    preds: str
    label: str


def group_sums(files: RowFiles, key: str, formulas: Sequence[GroupedColumns]) -> list[GroupSums]:
    """Returns what each formula gives for the groups of equal ``key``.

    Takes more memory than ``files.max_rows_in_memory`` rows only if one group has more.
    """
    used = [key, *(column for f in formulas for column in (f.preds, f.label))]
    dtypes = files.dtypes(list(dict.fromkeys(used)))
    num_partitions = max(num_ranks(), math.ceil(files.count() / files.max_rows_in_memory))
    partitioning = files.partitioning(dtypes)

    def scatter() -> None:
        for chunk in files.chunks(dtypes):
            keys = chunk[key]
            hashes = mixed(torch.from_numpy(keys)).numpy() & 0xFFFFFFFF
            any_partition = np.arange(len(keys))
            partitioning.add(
                chunk, np.where(keys == NULL_ID, any_partition, hashes) % num_partitions
            )

    def add_up() -> list[GroupSums]:
        sums = [GroupSums(0.0, 0.0, 0, 0, 0, 0)] * len(formulas)
        for partition in range(own_rank(), num_partitions, num_ranks()):
            rows = partitioning.take(partition)
            sums = [
                so_far + formula.function(rows[formula.preds], rows[formula.label], rows[key])
                for so_far, formula in zip(sums, formulas, strict=True)
            ]
        return sums

    together(scatter)
    return [reduce(add, sums) for sums in zip(*together(add_up), strict=True)]


@one_thread()
def auc_on_disk(files: RowFiles, preds: str, label: str) -> float:
    """Returns ``auc.exact_auc`` of two columns.

    NaN, with a warning, if there are no positives or no negatives.

    Raises:
        ValueError: NaN predictions, or targets other than 0 and 1.
    """
    survey = _survey(files, preds, label)
    refuse_nan("auc", torch.tensor(survey.num_nan_preds))
    refuse_not_binary("auc", torch.tensor(survey.num_not_binary))
    cuts = survey.cuts[preds]
    positive = "is positive"
    partitioning = files.partitioning({preds: survey.dtypes[preds], positive: np.dtype("?")})

    def scatter() -> Numbers:
        counts: Numbers = np.zeros((2 * len(cuts) + 1, 2), np.int64)
        for chunk in files.chunks(survey.dtypes):
            ranges, is_positive = _range_of(chunk[preds], cuts), chunk[label] == 1
            counts += np.bincount(2 * ranges + is_positive, minlength=counts.size).reshape(
                counts.shape
            )
            partitioning.add({preds: chunk[preds], positive: is_positive}, _in_files(ranges))
        return counts

    def twice_wins_within() -> int:
        wins = 0
        for number in _own_ranges(cuts):
            rows = partitioning.take(number)
            order = argsort(rows[preds])
            scores, is_positive = rows[preds].gather(0, order), rows[positive].gather(0, order)
            negatives, positives = scores[~is_positive], scores[is_positive]
            for right in (False, True):
                wins += int(torch.searchsorted(negatives, positives, right=right).sum())
        return wins

    counts = np.sum(together(scatter), axis=0)
    negatives, positives = counts[:, 0], counts[:, 1]
    # Twice the wins, so that halves stay integers.
    wins = 2 * int((positives * (negatives.cumsum() - negatives)).sum())
    wins += int((positives * negatives)[1::2].sum())
    wins += sum(together(twice_wins_within))
    num_pairs = int(positives.sum()) * int(negatives.sum())
    return _ratio("auc", wins / 2, num_pairs, "one class only")


@one_thread()
def xauc_on_disk(
    files: RowFiles, preds: str, label: str, *, exclude_tied_targets: bool = False
) -> float:
    """Returns ``xauc.xauc`` of two columns.

    Every pair is counted once: its rows are in different ranges of the target and of the
    prediction, or in one range of the target, or in one of the prediction but not of the target.

    NaN, with a warning, without a pair.

    Raises:
        ValueError: NaN predictions or targets.
    """
    survey = _survey(files, preds, label)
    refuse_nan("xauc", torch.tensor(survey.num_nan))
    target_cuts, pred_cuts = survey.cuts[label], survey.cuts[preds]
    by_target = files.partitioning(survey.dtypes)
    target_range = "range of the target"
    by_pred = files.partitioning({preds: survey.dtypes[preds], target_range: np.dtype("i2")})

    def scatter() -> Numbers:
        counts: Numbers = np.zeros((2 * len(target_cuts) + 1, 2 * len(pred_cuts) + 1), np.int64)
        for chunk in files.chunks(survey.dtypes):
            targets = _range_of(chunk[label], target_cuts)
            ranges = _range_of(chunk[preds], pred_cuts)
            cells = targets * counts.shape[1] + ranges
            counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
            by_target.add(chunk, _in_files(targets))
            by_pred.add({preds: chunk[preds], target_range: targets}, _in_files(ranges))
        return counts

    def count_within() -> tuple[int, int]:
        concordant, tied = 0, 0
        for number in _own_ranges(target_cuts):
            rows = by_target.take(number)
            concordant += _concordant(rows[preds], rows[label])
            tied += _tied(rows[label]) if exclude_tied_targets else 0
        for number in _own_ranges(pred_cuts):
            rows = by_pred.take(number)
            concordant += _concordant(rows[preds], rows[target_range])
        return concordant, tied

    counts = np.sum(together(scatter), axis=0)
    lower = np.pad(counts, ((1, 0), (1, 0)))[:-1, :-1].cumsum(axis=0).cumsum(axis=1)
    concordant = int((counts * lower).sum())
    within, tied = (sum(count) for count in zip(*together(count_within), strict=True))
    num_rows = int(counts.sum())
    num_pairs = num_rows * (num_rows - 1) // 2
    reason = "fewer than two rows"
    if exclude_tied_targets:
        at_cuts = counts.sum(axis=1)[1::2]
        num_pairs -= tied + int((at_cuts * (at_cuts - 1) // 2).sum())
        reason = "no two rows of different targets"
    return _ratio("xauc", concordant + within, num_pairs, reason)


@dataclass(frozen=True)
class _Survey:
    """What is known of two columns after reading them once; ``cuts`` are [R] ascending."""

    dtypes: dict[str, np.dtype[Any]]
    cuts: dict[str, Numbers]
    num_nan: int
    num_nan_preds: int
    num_not_binary: int


def _survey(files: RowFiles, preds: str, label: str) -> _Survey:
    """Chooses cuts from a random sample such that what lies between two fits into memory.

    A value so frequent that it would not fit becomes a cut itself: what equals a cut is a range of
    its own, in which all is tied and need not be looked at. Other samples give other cuts, but the
    same counts.
    """
    dtypes = files.dtypes([preds, label])
    num_rows = files.count()
    num_ranges = math.ceil(num_rows / files.max_rows_in_memory * _SPARE_RANGES) or 1
    share = min(1.0, num_ranges * _SAMPLES_PER_RANGE / max(num_rows, 1))

    def read() -> tuple[Columns, Numbers]:
        generator = np.random.default_rng([0, own_rank()])
        samples: list[Columns] = [{name: np.empty(0, dtype) for name, dtype in dtypes.items()}]
        counts: Numbers = np.zeros(3, np.int64)
        for chunk in files.chunks(dtypes):
            nan_preds, target = np.isnan(chunk[preds]), chunk[label]
            not_binary = (target != 0) & (target != 1)
            counts += [(nan_preds | np.isnan(target)).sum(), nan_preds.sum(), not_binary.sum()]
            drawn = generator.random(len(target)) < share
            samples.append({name: values[drawn] for name, values in chunk.items()})
        return {name: np.concatenate([s[name] for s in samples]) for name in dtypes}, counts

    samples, counts = zip(*together(read), strict=True)
    cuts = {}
    for name in dtypes:
        values = np.sort(np.concatenate([sample[name] for sample in samples]))
        places = np.arange(1, num_ranges) * len(values) // num_ranges
        cuts[name] = np.unique(values[places])
    return _Survey(dtypes, cuts, *np.sum(counts, axis=0).tolist())


def _range_of(values: Numbers, cuts: Numbers) -> Numbers:
    """Numbers the ranges from 0: 2 k + 1 is what equals cut k, even ones lie between the cuts."""
    return np.searchsorted(cuts, values, "left") + np.searchsorted(cuts, values, "right")


def _in_files(ranges: Numbers) -> Numbers:
    """Returns the partitions of rows: their range, or -1 if it is a single value."""
    return np.where(ranges % 2 == 0, ranges, -1)


def _own_ranges(cuts: Numbers) -> range:
    """Returns this rank's share of the ranges between the cuts."""
    return range(2 * own_rank(), 2 * len(cuts) + 1, 2 * num_ranks())


def _concordant(preds: Tensor, target: Tensor) -> int:
    group = torch.zeros(len(preds), dtype=torch.int64, device=preds.device)
    return int(count_concordant_pairs(preds, target, group, num_groups=1))


def _tied(values: Tensor) -> int:
    group = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    return int(count_tied_pairs(values, group, num_groups=1))


def _ratio(name: str, part: float, num_pairs: int, reason: str) -> float:
    """Divides in float64, as formulas in memory do; rank 0 warns if there is no value."""
    if num_pairs:
        return float(part) / float(num_pairs)
    if own_rank() == 0:
        warn_if_nan(name, torch.tensor(math.nan), reason)
    return math.nan
