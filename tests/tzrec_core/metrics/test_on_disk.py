import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tzrec_core.metrics.judged_rows import OF_GROUPS, OF_ROWS, make_rows, part_of
from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.auc import exact_auc
from tzrec_core.metrics.group_sums import GroupSums
from tzrec_core.metrics.on_disk import auc_on_disk, xauc_on_disk
from tzrec_core.metrics.row_files import RowFiles
from tzrec_core.metrics.row_store import GroupFormula, JudgedGroups, RowStore
from tzrec_core.metrics.row_store_on_disk import RowStoreOnDisk
from tzrec_core.metrics.xauc import xauc

SIZE = 700


def on_disk(folder, *parts, max_rows_in_memory=100):
    store = RowStoreOnDisk(OF_ROWS, OF_GROUPS, folder=folder, max_rows_in_memory=max_rows_in_memory)
    for part in parts:
        store.update(part)
    return store


def in_memory(*parts):
    store = RowStore(OF_ROWS, OF_GROUPS)
    for part in parts:
        store.update(part)
    return store.compute()


@pytest.mark.parametrize("levels", [None, 6])
@pytest.mark.parametrize("max_rows_in_memory", [1, 30, 100, 10_000])
def test_values_are_those_of_the_same_rows_in_memory(tmp_path, levels, max_rows_in_memory):
    rows = make_rows(SIZE, levels=levels)
    parts = [part_of(rows, 0, 250), part_of(rows, 250, 250), part_of(rows, 250, SIZE)]
    values = on_disk(tmp_path, *parts, max_rows_in_memory=max_rows_in_memory).compute()
    expected = in_memory(rows)
    assert values == pytest.approx(expected, abs=1e-12)
    # Of integers, in the same order: the very same numbers.
    assert [values[judged.name] for judged in OF_ROWS] == [expected[j.name] for j in OF_ROWS]


def files_of(folder, preds, target, *, max_rows_in_memory):
    files = RowFiles(folder, max_rows_in_memory=max_rows_in_memory)
    half = len(preds) // 2
    for rows in (slice(0, half), slice(half, None)):
        files.append({"preds": preds[rows], "target": target[rows]})
    return files


NUMBERS = st.sampled_from([0.0, -0.0, 0.25, 0.5, 1e-30, -3.0, math.inf, -math.inf])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(NUMBERS, NUMBERS, st.booleans()), min_size=2, max_size=60),
    max_rows_in_memory=st.integers(1, 20),
)
def test_ties_everywhere_and_infinities_count_as_in_memory(
    tmp_path_factory, rows, max_rows_in_memory
):
    preds, seconds, clicks = (torch.tensor(column) for column in zip(*rows, strict=True))
    files = files_of(
        tmp_path_factory.mktemp("rows"), preds, seconds, max_rows_in_memory=max_rows_in_memory
    )
    assert xauc_on_disk(files, "preds", "target") == xauc(preds, seconds).item()
    if 0 < clicks.sum() < len(clicks):
        files = files_of(
            tmp_path_factory.mktemp("rows"),
            preds,
            clicks.long(),
            max_rows_in_memory=max_rows_in_memory,
        )
        assert auc_on_disk(files, "preds", "target") == exact_auc(preds, clicks).item()


def test_one_value_more_frequent_than_what_fits_into_memory_is_never_loaded(tmp_path):
    rows = make_rows(SIZE)
    rows["probs"][100:] = 0.5
    rows["seconds"][50:600] = 3.0
    store = on_disk(tmp_path, rows, max_rows_in_memory=40)
    assert store.compute() == pytest.approx(in_memory(rows), abs=1e-12)


def test_integer_targets_beyond_float_precision_are_told_apart(tmp_path):
    target = torch.arange(50) + 2**60
    preds = torch.rand(50)
    files = files_of(tmp_path, preds, target, max_rows_in_memory=10)
    assert xauc_on_disk(files, "preds", "target") == xauc(preds, torch.arange(50)).item()


def test_labels_of_two_types_are_compared_as_numbers(tmp_path):
    rows, floats = make_rows(60), make_rows(60, seed=1)
    rows["seconds"] = rows["seconds"].long()
    store = on_disk(tmp_path, rows, floats, max_rows_in_memory=60)
    assert store.compute() == pytest.approx(in_memory(rows, floats), abs=1e-12)


def test_one_class_has_no_auc_and_says_so(tmp_path):
    files = files_of(tmp_path, torch.rand(20), torch.ones(20), max_rows_in_memory=5)
    with pytest.warns(UserWarning, match="auc is NaN: one class only"):
        assert math.isnan(auc_on_disk(files, "preds", "target"))


@pytest.mark.parametrize("size", [0, 1])
def test_fewer_than_two_rows_have_no_xauc(tmp_path, size):
    files = RowFiles(tmp_path, max_rows_in_memory=5)
    if size:
        files.append({"preds": torch.rand(1), "target": torch.rand(1)})
    with pytest.warns(UserWarning, match="fewer than two rows"):
        assert math.isnan(xauc_on_disk(files, "preds", "target"))


def test_equal_targets_only_have_no_xauc_of_different_targets(tmp_path):
    files = files_of(tmp_path, torch.rand(20), torch.ones(20), max_rows_in_memory=5)
    with pytest.warns(UserWarning, match="no two rows of different targets"):
        value = xauc_on_disk(files, "preds", "target", exclude_tied_targets=True)
    assert math.isnan(value)


def test_bad_rows_are_counted_over_all_files_and_refused(tmp_path):
    preds, target = torch.rand(20), torch.zeros(20)
    preds[[1, 15]], target[[1, 2]] = float("nan"), float("nan")
    files = files_of(tmp_path, preds, target, max_rows_in_memory=5)
    with pytest.raises(ValueError, match="xauc: 3 predictions or targets are NaN"):
        xauc_on_disk(files, "preds", "target")
    with pytest.raises(ValueError, match="auc: 2 predictions or targets are NaN"):
        auc_on_disk(files, "preds", "target")
    files = files_of(tmp_path, torch.rand(20), target, max_rows_in_memory=5)
    with pytest.raises(ValueError, match="auc: 2 targets are neither 0 nor 1"):
        auc_on_disk(files, "preds", "target")


def test_parquet_files_of_others_can_be_judged(tmp_path):
    rows = make_rows(SIZE)
    (tmp_path / "theirs").mkdir()
    theirs = RowFiles(tmp_path / "theirs", max_rows_in_memory=100)
    theirs.append({"probs": rows["probs"], "click": rows["click"]})
    (tmp_path / "ours").mkdir()
    ours = RowFiles(
        tmp_path / "ours",
        max_rows_in_memory=100,
        paths=list((tmp_path / "theirs").glob("*.parquet")),
    )
    assert auc_on_disk(ours, "probs", "click") == exact_auc(rows["probs"], rows["click"]).item()


def test_groups_are_judged_whole_and_not_many_more_rows_at_a_time_than_the_bound(tmp_path):
    keys, sizes = [], []

    def note(preds, target, row_keys):
        keys.extend(set(row_keys.tolist()))
        sizes.append(len(row_keys))
        return GroupSums(0.0, 0.0, 0, 0, 0, len(row_keys))

    of_groups = [JudgedGroups("g", GroupFormula("g", note), "probs", "click", "user")]
    store = RowStoreOnDisk([], of_groups, folder=tmp_path, max_rows_in_memory=1000)
    rows = make_rows(8000)
    rows["user"] = torch.arange(8000) % 2000 * 64  # a multiple of the 8 partitions
    rows["user"][::7] = NULL_ID  # in no group, so these may be anywhere
    store.update(rows)
    with pytest.warns(UserWarning, match="no group has a value"):
        store.compute()
    assert sum(sizes) == 8000
    assert max(sizes) < 1200
    known = [key for key in keys if key != NULL_ID]
    assert len(known) == len(set(known)) == 2000


def test_rows_are_forgotten_on_reset(tmp_path):
    store = on_disk(tmp_path, make_rows(SIZE, seed=1))
    store.compute()
    store.reset()
    assert not list(tmp_path.rglob("*.parquet"))
    store.update(make_rows(SIZE))
    assert store.compute() == pytest.approx(in_memory(make_rows(SIZE)), abs=1e-12)


def test_rows_wait_in_memory_only_up_to_the_bound(tmp_path):
    rows = make_rows(SIZE)
    parts = [part_of(rows, start, start + 10) for start in range(0, SIZE, 10)]
    on_disk(tmp_path, *parts, max_rows_in_memory=100)
    assert len(list(tmp_path.glob("*.parquet"))) == SIZE // 100
