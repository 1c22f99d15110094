"""Rows, formulas that judge them, and their values found one pair or one group at a time."""

from functools import partial
from itertools import combinations

import torch
from sklearn.metrics import roc_auc_score

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.auc import exact_auc
from tzrec_core.metrics.grouped_auc import grouped_auc_sums
from tzrec_core.metrics.grouped_xauc import grouped_xauc_sums
from tzrec_core.metrics.on_disk import auc_on_disk, xauc_on_disk
from tzrec_core.metrics.row_store import GroupFormula, JudgedGroups, JudgedRows, RowFormula
from tzrec_core.metrics.xauc import xauc

AUC = RowFormula("auc", exact_auc, auc_on_disk)
XAUC = RowFormula("xauc", xauc, xauc_on_disk)
UNTIED_XAUC = RowFormula(
    "xauc",
    partial(xauc, exclude_tied_targets=True),
    partial(xauc_on_disk, exclude_tied_targets=True),
)
GROUPED_AUC = GroupFormula(
    "grouped_auc", partial(grouped_auc_sums, weighting="groups"), "no group has both classes"
)
GROUPED_XAUC = GroupFormula("grouped_xauc", grouped_xauc_sums, "no group has a pair")

OF_ROWS = [
    JudgedRows("auc", AUC, "probs", "click"),
    JudgedRows("xauc", XAUC, "probs", "seconds"),
    JudgedRows("xauc_untied", UNTIED_XAUC, "probs", "seconds"),
]
OF_GROUPS = [
    JudgedGroups("grouped_auc", GROUPED_AUC, "probs", "click", "user"),
    JudgedGroups("grouped_xauc", GROUPED_XAUC, "probs", "seconds", "user"),
    JudgedGroups("grouped_xauc_item", GROUPED_XAUC, "probs", "click", "item"),
]


def make_rows(size, *, levels=None, seed=0):
    """Columns with groups of many sizes; with ``levels``, of few different values."""
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(size, generator=generator)
    seconds = probs + torch.randn(size, generator=generator)
    if levels:
        probs, seconds = (probs * levels).floor() / levels, (seconds * levels).floor()
    user = (torch.rand(size, generator=generator) ** 3 * size / 3).long() * 2**40 - 2**62
    user[::9] = NULL_ID
    return {
        "probs": probs,
        "click": (torch.rand(size, generator=generator) < probs).long(),
        "seconds": seconds,
        "user": user,
        "item": torch.randint(-3, 3, (size,), generator=generator) * 7,
    }


def part_of(rows, start, end):
    return {name: column[start:end] for name, column in rows.items()}


def pairs_in_order(preds, target):
    """The number of pairs in order, of pairs, and of pairs of different targets."""
    pairs = list(combinations(zip(preds.tolist(), target.tolist(), strict=True), 2))
    in_order = sum((p1 - p2) * (t1 - t2) > 0 for (p1, t1), (p2, t2) in pairs)
    return in_order, len(pairs), sum(t1 != t2 for (_, t1), (_, t2) in pairs)


def values_by_hand(rows):
    """What OF_ROWS and OF_GROUPS give."""
    in_order, pairs, untied = pairs_in_order(rows["probs"], rows["seconds"])
    values = {
        "auc": roc_auc_score(rows["click"], rows["probs"]),
        "xauc": in_order / pairs,
        "xauc_untied": in_order / untied,
    }
    for judged in OF_GROUPS:
        preds, target, keys = (rows[name] for name in (judged.preds, judged.label, judged.key))
        groups = [keys == key for key in keys[keys != NULL_ID].unique()]
        if judged.formula is GROUPED_AUC:
            used = [group for group in groups if len(target[group].unique()) == 2]
            total = sum(roc_auc_score(target[group], preds[group]) for group in used)
            value = total / len(used)
        else:
            used = [group for group in groups if group.sum() > 1]
            counts = [pairs_in_order(preds[group], target[group]) for group in used]
            sizes = [int(group.sum()) for group in used]
            total = sum(n * c / p for n, (c, p, _) in zip(sizes, counts, strict=True))
            value = total / sum(sizes)
        values[judged.name] = value
        values[f"{judged.name}_group_coverage"] = len(used) / len(groups)
        values[f"{judged.name}_row_coverage"] = sum(int(g.sum()) for g in used) / len(keys)
    return values
