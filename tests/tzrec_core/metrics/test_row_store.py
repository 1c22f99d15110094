import math
import warnings

import pytest
import torch

from tests.distributed.ranks import run
from tests.tzrec_core.metrics.judged_rows import (
    AUC,
    GROUPED_AUC,
    OF_GROUPS,
    OF_ROWS,
    make_rows,
    part_of,
    values_by_hand,
)
from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.row_store import JudgedGroups, JudgedRows, RowStore
from tzrec_core.metrics.row_store_on_disk import RowStoreOnDisk

SIZE = 120


def stored(*parts, of_rows=OF_ROWS, of_groups=OF_GROUPS):
    store = RowStore(of_rows, of_groups)
    for part in parts:
        store.update(part)
    return store


def bytes_kept(store):
    tensors = [tensor for state in store.metric_state.values() for tensor in state]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


@pytest.mark.parametrize("levels", [None, 4])
def test_values_and_coverage_are_those_found_by_hand(levels):
    rows = make_rows(SIZE, levels=levels)
    store = stored(part_of(rows, 0, 50), part_of(rows, 50, 50), part_of(rows, 50, SIZE))
    expected = values_by_hand(rows)
    assert 0 < expected["grouped_auc_row_coverage"] < 1
    assert store.compute() == pytest.approx(expected, abs=1e-12)


def test_each_column_is_kept_once_however_many_metrics_share_it():
    rows = make_rows(1000)
    of_rows, of_groups = OF_ROWS[:1], OF_GROUPS[:2]  # auc, grouped_auc, grouped_xauc
    names = [*of_rows, *of_groups]
    store = stored(rows, of_rows=of_rows, of_groups=of_groups)
    # float32 predictions, int64 clicks, float32 seconds, int64 users.
    assert bytes_kept(store) == 1000 * (4 + 8 + 4 + 8)
    assert bytes_kept(store) <= 1000 * 12 * len(names)
    assert bytes_kept(stored(rows, of_rows=OF_ROWS[:1], of_groups=[])) <= 1000 * 12
    before = store.compute()
    assert bytes_kept(store) == 1000 * (4 + 8 + 4 + 8)
    assert store.compute() == before


def test_a_column_of_a_larger_tensor_does_not_keep_all_of_it():
    rows = make_rows(1000)
    rows["probs"] = rows["probs"][:, None].repeat(1, 50)[:, 1]
    rows["click"] = rows["click"].repeat(50)[:1000]
    assert bytes_kept(stored(rows, of_rows=OF_ROWS[:1], of_groups=[])) <= 1000 * 12


def test_what_is_done_to_a_batch_later_does_not_matter():
    rows = make_rows(SIZE)
    expected = stored(rows).compute()
    mine = {name: column.clone() for name, column in rows.items()}
    store = stored(mine)
    for column in mine.values():
        column.zero_()
    assert store.compute() == expected


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.bfloat16, torch.float64])
def test_any_type_of_label_and_prediction_gives_the_same(dtype):
    rows = make_rows(SIZE)
    rows["probs"] = rows["probs"].bfloat16().float()
    expected = stored(rows, of_groups=OF_GROUPS[:1], of_rows=OF_ROWS[:1]).compute()
    rows["click"], rows["probs"] = rows["click"].to(dtype), rows["probs"].bfloat16()
    assert stored(rows, of_groups=OF_GROUPS[:1], of_rows=OF_ROWS[:1]).compute() == expected


def test_labels_that_float32_cannot_hold_are_told_apart():
    rows = make_rows(3)
    rows["probs"] = torch.tensor([0.1, 0.2, 0.3])
    rows["seconds"] = torch.tensor([2**24, 2**24 + 1, 2**24 + 2])
    assert stored(rows, of_rows=OF_ROWS[1:2], of_groups=[]).compute() == {"xauc": 1.0}
    floats = {**rows, "seconds": torch.tensor([0.5, 1.5, 2.5])}  # from another file
    mixed = stored(rows, floats, of_rows=OF_ROWS[1:2], of_groups=[]).compute()
    assert mixed["xauc"] == pytest.approx((3 + 3 + 6 - 3) / 15)  # (i, j) across: j above i


def test_rows_are_forgotten_on_reset():
    store = stored(make_rows(SIZE, seed=1))
    store.compute()
    store.reset()
    store.update(make_rows(SIZE))
    assert store.compute() == stored(make_rows(SIZE)).compute()


def test_without_a_usable_group_the_value_is_nan_with_one_warning_and_coverage_zero():
    rows = make_rows(SIZE)
    rows["click"] = torch.ones_like(rows["click"])
    store = stored(rows, of_rows=[], of_groups=OF_GROUPS[:1])
    with pytest.warns(UserWarning, match="grouped_auc is NaN: no group has both classes") as seen:
        values = store.compute()
    assert len(seen) == 1
    assert math.isnan(values["grouped_auc"])
    assert values["grouped_auc_group_coverage"] == values["grouped_auc_row_coverage"] == 0


def test_without_a_known_key_coverage_of_groups_is_nan():
    rows = make_rows(SIZE)
    rows["user"] = torch.full((SIZE,), NULL_ID)
    with pytest.warns(UserWarning, match="no group has both classes"):
        values = stored(rows, of_rows=[], of_groups=OF_GROUPS[:1]).compute()
    assert math.isnan(values["grouped_auc_group_coverage"])
    assert values["grouped_auc_row_coverage"] == 0


SPLITS = {
    2: [[[(0, 30), (30, 37)], [(37, SIZE)]], [[(0, SIZE)], []], [[], [(0, 45), (45, SIZE)]]],
    3: [[[(0, 10)], [(10, 10)], [(10, SIZE)]]],
}


def compute_own_parts(ranks, splits, folder):
    """The values in memory and on disk, for each way to split the rows."""
    rows, results = make_rows(SIZE, levels=12), []
    for number, split in enumerate(splits):
        own_folder = folder / f"{ranks.world_size}-{number}"
        own_folder.mkdir(exist_ok=True)
        on_disk = RowStoreOnDisk(OF_ROWS, OF_GROUPS, folder=own_folder, max_rows_in_memory=25)
        for store in (RowStore(OF_ROWS, OF_GROUPS), on_disk):
            for start, end in split[ranks.rank]:
                store.update(part_of(rows, start, end))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The ``compute`` method")  # never updated
                results.append(store.compute())
    return results


@pytest.mark.parametrize("num_ranks", SPLITS)
def test_every_rank_has_the_values_of_all_rows_in_memory_and_on_disk(num_ranks, tmp_path):
    expected = stored(make_rows(SIZE, levels=12)).compute()
    for results in run(compute_own_parts, num_ranks, SPLITS[num_ranks], tmp_path):
        assert len(results) == 2 * len(SPLITS[num_ranks])
        for values in results:
            assert values == pytest.approx(expected, abs=1e-12)


def errors_of_bad_rows(ranks, folder):
    """What is raised if only rank 1 has bad rows."""
    rows = make_rows(SIZE, seed=ranks.rank)
    bad = {"probs": rows["probs"].clone(), "click": rows["click"].clone()}
    if ranks.rank == 1:
        bad["probs"][3], bad["click"][:2] = float("nan"), 7
    messages = []
    for column in ("probs", "click"):
        for of_rows, of_groups in (
            ([JudgedRows("a", AUC, "probs", "click")], []),
            ([], [JudgedGroups("g", GROUPED_AUC, "probs", "click", "user")]),
        ):
            own_folder = folder / str(len(messages))
            own_folder.mkdir(exist_ok=True)
            on_disk = RowStoreOnDisk(of_rows, of_groups, folder=own_folder, max_rows_in_memory=500)
            for store in (RowStore(of_rows, of_groups), on_disk):
                store.update({**rows, column: bad[column]})
                try:
                    store.compute()
                except ValueError as error:
                    messages.append(str(error))
    return messages


def test_bad_rows_of_one_rank_are_an_error_with_one_message_on_every_rank(tmp_path):
    first, second = run(errors_of_bad_rows, 2, tmp_path)
    assert first == second
    nan, binary = "1 predictions or targets are NaN", "targets are neither 0 nor 1"
    assert first[:2] == [f"auc: {nan}"] * 2
    assert first[2:4] == [f"grouped_auc: {nan}"] * 2
    assert first[4:6] == [f"auc: 2 {binary}"] * 2
    assert len(first) == 8
    assert all(m.startswith("grouped_auc") and m.endswith(binary) for m in first[6:])


@pytest.mark.gpu
def test_a_gpu_gives_the_values_of_the_cpu(tmp_path):
    rows = make_rows(SIZE, levels=12)
    expected = stored(rows).compute()
    device = torch.device("cuda")
    on_disk = RowStoreOnDisk(OF_ROWS, OF_GROUPS, folder=tmp_path, max_rows_in_memory=25)
    for store in (RowStore(OF_ROWS, OF_GROUPS), on_disk):
        store.to(device)
        store.update({name: column.to(device) for name, column in rows.items()})
        assert store.compute() == pytest.approx(expected, abs=1e-12)
