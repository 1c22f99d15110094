"""The exact metrics beside sampling, loops over groups and other libraries, as ratios.

``make bench-metrics`` takes turns between the ways to compute a metric, on the same rows and in one
process, and keeps the best time of each: CPU time on one thread, which other programs disturb less,
else wall time. The unit is one ``torch.sort`` of the predictions. What would take minutes is
measured on a part of its pairs or groups, and scaled: it is marked with ~.
"""

import argparse
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from scipy.stats import kendalltau
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from tzrec_core.metrics.auc import exact_auc
from tzrec_core.metrics.grouped_auc import grouped_auc_sums
from tzrec_core.metrics.grouped_xauc import grouped_xauc_sums
from tzrec_core.metrics.xauc import xauc

SAMPLE_RATIO = 1e-3
PAIRS_MEASURED = 2_000_000
PAIRS_PER_GROUP = 100
GROUPS_MEASURED = 500

auc_sums = partial(grouped_auc_sums, weighting="groups")


@dataclass(frozen=True)
class Rows:
    """Rows to judge, [n] each: about 10 of a key, but a fifth of them of one skewed key."""

    preds: Tensor
    clicks: Tensor
    watch_time: Tensor
    keys: Tensor
    skewed_keys: Tensor


@dataclass(frozen=True)
class Way:
    """A way to compute a metric, or a part of it that takes 1 / ``scale`` of the time."""

    name: str
    run: Callable[[], object]
    scale: float = 1


def main() -> None:
    """Prints the tables, and which targets are met."""
    flags = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    flags.add_argument("--growth", type=int, nargs="*", default=[10**5, 10**6, 10**7])
    flags.add_argument("--rounds", type=int, default=5)
    args = flags.parse_args()
    warnings.simplefilter("ignore")  # of groups with one class
    default_threads = torch.get_num_threads()
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        for num_threads in sorted({1, default_threads}):
            torch.set_num_threads(num_threads)
            print(f"\n== {device}, {num_threads} thread(s)")
            compare_all_rows(make_rows(10**6, device), rounds=args.rounds)
            compare_groups(make_rows(500_000, device), rounds=args.rounds)
            show_growth(args.growth, device, rounds=args.rounds)


def make_rows(size: int, device: str) -> Rows:
    """Draws rows whose predictions say something about the targets."""
    generator = torch.Generator().manual_seed(0)
    utility = torch.randn(size, generator=generator)
    preds = torch.sigmoid(utility + torch.randn(size, generator=generator))
    clicks = (torch.rand(size, generator=generator) < torch.sigmoid(utility)).long()
    watch_time = (utility + torch.randn(size, generator=generator)).exp()
    ids = torch.randint(-(2**62), 2**62, (size // 10,), generator=generator)
    group = torch.randint(size // 10, (size,), generator=generator)
    skewed = group.masked_fill(torch.rand(size, generator=generator) < 0.2, 0)
    columns = preds, clicks, watch_time, ids[group], ids[skewed]
    return Rows(*(column.to(device) for column in columns))


def compare_all_rows(rows: Rows, *, rounds: int) -> None:
    """Compares ways to compute AUC and X-AUC."""
    preds, clicks, watch_time = rows.preds, rows.clicks, rows.watch_time
    scale = math.comb(len(preds), 2) * SAMPLE_RATIO / PAIRS_MEASURED

    def sample_pairs() -> Tensor:
        return xauc_of_pairs(preds, watch_time, PAIRS_MEASURED)

    ways = [
        Way("one torch.sort", lambda: torch.sort(preds)),
        Way("exact X-AUC", lambda: xauc(preds, watch_time)),
        Way("X-AUC of 1e-3 of the pairs", sample_pairs, scale),
        Way("exact AUC", lambda: exact_auc(preds, clicks)),
        Way("torchmetrics binary_auroc", lambda: binary_auroc(preds, clicks)),
    ]
    if preds.is_cpu:
        numbers = preds.numpy(), watch_time.numpy()
        ways.append(Way("scipy kendalltau", lambda: kendalltau(*numbers)))
        ways.append(Way("scikit-learn roc_auc_score", lambda: roc_auc_score(clicks, preds)))

    sort, exact, sampling, *_ = show(f"{len(preds):,} rows", ways, rounds=rounds)
    check("exact X-AUC over one sort", exact / sort, at_most=4)
    check("sampling over exact X-AUC", sampling / exact, at_least=50)


def compare_groups(rows: Rows, *, rounds: int) -> None:
    """Compares ways to compute grouped AUC and grouped X-AUC."""
    preds, clicks, watch_time = rows.preds, rows.clicks, rows.watch_time
    keys, skewed = rows.keys, rows.skewed_keys
    order = torch.argsort(keys)
    sizes = keys[order].unique_consecutive(return_counts=True)[1].tolist()
    groups = [column[order].split(sizes) for column in (preds, clicks, watch_time)]
    some = list(zip(*groups, strict=True))[:GROUPS_MEASURED]
    scale = len(sizes) / GROUPS_MEASURED

    def loop_auc() -> float:
        return sum(float(binary_auroc(preds, clicks)) for preds, clicks, _ in some)

    def loop_pairs() -> float:
        return sum(float(xauc_of_pairs(preds, time, PAIRS_PER_GROUP)) for preds, _, time in some)

    ways = [
        Way("one torch.sort", lambda: torch.sort(preds)),
        Way("grouped AUC", lambda: auc_sums(preds, clicks, keys)),
        Way("loop over binary_auroc", loop_auc, scale),
        Way("exact grouped X-AUC", lambda: grouped_xauc_sums(preds, watch_time, keys)),
        Way("loop over 100 sampled pairs", loop_pairs, scale),
        Way("grouped AUC, skewed", lambda: auc_sums(preds, clicks, skewed)),
        Way("exact grouped X-AUC, skewed", lambda: grouped_xauc_sums(preds, watch_time, skewed)),
    ]
    title = f"{len(preds):,} rows, {len(sizes):,} groups"
    sort, auc, looped_auc, exact, looped_pairs, *_ = show(title, ways, rounds=rounds)
    check("grouped AUC over one sort", auc / sort, at_most=4)
    check("loop over grouped AUC", looped_auc / auc, at_least=40)
    check("exact grouped X-AUC over one sort", exact / sort, at_most=8)
    check("sampling loop over exact grouped X-AUC", looped_pairs / exact, at_least=10)


def xauc_of_pairs(preds: Tensor, target: Tensor, num_pairs: int) -> Tensor:
    """Returns the share of sampled pairs i < j that are in order, NaN if there is no pair."""
    num_pairs = min(num_pairs, total := math.comb(len(preds), 2))
    pair = torch.randint(max(total, 1), (num_pairs,), device=preds.device)
    j = ((1 + (1 + 8 * pair.double()).sqrt()) / 2).long()
    j -= (j * (j - 1) // 2 > pair).long()  # the root may have been rounded up
    i = pair - j * (j - 1) // 2
    return ((target[i] - target[j]) * (preds[i] - preds[j]) > 0).double().mean()


def show_growth(sizes: list[int], device: str, *, rounds: int) -> None:
    """Prints the time per row of growing numbers of rows."""
    per_row: dict[str, list[float]] = {}
    for size in sizes:
        ways = ways_of_all_sizes(make_rows(size, device))
        for way, seconds in zip(ways, measure(ways, min(rounds, 3)), strict=True):
            per_row.setdefault(way.name, []).append(seconds / size * 1e9)
    print(f"\n{'ns a row':34}" + "".join(f"{size:12,}" for size in sizes))
    for name, nanoseconds in per_row.items():
        print(f"{name:34}" + "".join(f"{value:12.1f}" for value in nanoseconds))


def ways_of_all_sizes(rows: Rows) -> list[Way]:
    """Returns the exact ways, and the sort."""
    preds, clicks, watch_time, keys = rows.preds, rows.clicks, rows.watch_time, rows.keys
    return [
        Way("one torch.sort", lambda: torch.sort(preds)),
        Way("exact X-AUC", lambda: xauc(preds, watch_time)),
        Way("exact AUC", lambda: exact_auc(preds, clicks)),
        Way("grouped AUC", lambda: auc_sums(preds, clicks, keys)),
        Way("exact grouped X-AUC", lambda: grouped_xauc_sums(preds, watch_time, keys)),
    ]


def show(title: str, ways: list[Way], *, rounds: int) -> list[float]:
    """Prints and returns the seconds that each way takes."""
    times = measure(ways, rounds)
    print(f"\n{title:34}{'ms':>12}{'in sorts':>12}")
    for way, seconds in zip(ways, times, strict=True):
        mark = "~" if way.scale != 1 else " "
        print(f"{way.name:34}{mark}{seconds * 1e3:11.1f}{seconds / times[0]:12.2f}")
    return times


def measure(ways: list[Way], rounds: int) -> list[float]:
    """Returns the best seconds of each way, of all that it stands for."""
    on_one_thread = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    clock = time.process_time if on_one_thread else time.perf_counter
    best = [math.inf] * len(ways)
    for _ in range(rounds):
        for place, way in enumerate(ways):
            started = clock()
            way.run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            best[place] = min(best[place], (clock() - started) * way.scale)
    return best


def check(
    name: str, ratio: float, *, at_least: float = -math.inf, at_most: float = math.inf
) -> None:
    """Prints whether a ratio is as it should be."""
    limit = f"at least {at_least:g}" if at_least > 0 else f"at most {at_most:g}"
    verdict = "met   " if at_least <= ratio <= at_most else "MISSED"
    print(f"{verdict} {name}: {ratio:.2f}, {limit}")


if __name__ == "__main__":
    main()
