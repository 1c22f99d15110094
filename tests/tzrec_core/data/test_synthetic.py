import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import csv, parquet
from sklearn.metrics import roc_auc_score

from tzrec_core import config
from tzrec_core.data import synthetic
from tzrec_core.data.draws import bits, scrambled, stream_key, uniform, zipf
from tzrec_core.data.planted import CATEGORICAL, NUMERIC, Draws, draw, plant, sigmoid, utility
from tzrec_core.features.build import build_schema
from tzrec_core.features.transforms import encode

DEMO_CONFIG = Path(__file__).parents[3] / "pipelines" / "configs" / "demo.config"
NUM_ROWS = 40_000


@pytest.fixture(scope="module")
def model():
    return plant(0)


@pytest.fixture(scope="module")
def logs(model):
    rows, utilities = synthetic.make_rows(model, 0, NUM_ROWS)
    return rows, utilities.to_numpy()


@pytest.fixture(scope="module")
def draws():
    return draw(0, np.arange(NUM_ROWS, dtype=np.uint64))


def joined(chunks) -> tuple[pa.Table, pa.Array]:
    tables, utilities = zip(*chunks, strict=True)
    return pa.concat_tables(tables).combine_chunks(), pa.concat_arrays(utilities)


def brute_xauc(scores, target) -> float:
    """Share of pairs in order, each pair looked at."""
    products = (scores[:, None] - scores) * (target[:, None] - target)
    return float((products > 0).sum() / 2 / math.comb(len(scores), 2))


def mean_auc_of_users(users, labels, scores) -> float:
    rows_of = [np.flatnonzero(users == user) for user in np.unique(users)]
    return float(
        np.mean([roc_auc_score(labels[i], scores[i]) for i in rows_of if len(set(labels[i])) == 2])
    )


def read(folder: Path) -> pa.Table:
    return pa.concat_tables([parquet.read_table(path) for path in sorted(folder.iterdir())])


def write(output: Path, **changes) -> dict[str, float | None]:
    settings = {"rows": 3000, "eval_rows": 1200, "seed": 3, "file_format": "parquet"}
    return synthetic.write(output, **({**settings, "num_workers": 0} | changes))


# Draws.


def test_a_stream_gives_each_index_bits_of_its_own():
    index = np.arange(1 << 16, dtype=np.uint64)
    values = bits(stream_key(0, "a"), index)

    assert len(np.unique(values)) == len(index)
    assert (values[::-1] == bits(stream_key(0, "a"), index[::-1].copy())).all()
    for other in (stream_key(0, "b"), stream_key(1, "a"), stream_key(0, "a", "a")):
        assert (values != bits(other, index)).all()
    ones = np.unpackbits(values.view(np.uint8)).mean()
    assert ones == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(64 * len(index)))


def test_bits_are_those_of_splitmix64():
    mask = (1 << 64) - 1

    def reference(state: int) -> int:
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    index = [0, 1, 2, 1 << 40, (1 << 64) - 1]
    key = stream_key(5, "x")
    expected = [reference((int(key) + i * 0x9E3779B97F4A7C15) & mask) for i in index]
    assert bits(key, np.array(index, np.uint64)).tolist() == expected


def test_scrambled_ids_stay_apart():
    ids = np.arange(1 << 18, dtype=np.uint64)

    assert len(np.unique(scrambled(ids, 77))) == len(ids)
    assert (scrambled(ids, 77) != scrambled(ids, 78)).all()


@pytest.mark.parametrize(("size", "exponent"), [(10, 1.0), (1000, 1.2), (100_000, 1.1), (50, 0.6)])
def test_zipf_follows_its_power_law(size, exponent):
    numbers = uniform(stream_key(0, "numbers"), np.arange(200_000, dtype=np.uint64))
    ids = zipf(numbers, size=size, exponent=exponent)

    assert ids.min() >= 1
    assert ids.max() <= size
    # The share of id k is the integral of x ** -exponent from k to k + 1: by fine steps.
    x = np.linspace(1, size + 1, 100 * size + 1)
    middle = (x[1:] + x[:-1]) / 2
    weights = (middle**-exponent).reshape(size, 100).sum(axis=1)
    expected = len(numbers) * weights / weights.sum()
    for k in (1, 2, 5, 10):
        assert (ids == k).sum() == pytest.approx(
            expected[k - 1], abs=5 * math.sqrt(expected[k - 1])
        )


# Rows.


@pytest.mark.parametrize("chunk_rows", [5000, 1717, 1000])
@pytest.mark.parametrize("num_workers", [0, 3])
def test_rows_depend_on_neither_chunks_nor_workers(model, logs, chunk_rows, num_workers):
    chunks = synthetic.make_chunks(model, 0, 5000, chunk_rows=chunk_rows, num_workers=num_workers)
    rows, utilities = joined(chunks)

    assert rows.equals(logs[0].slice(0, 5000).combine_chunks())
    assert (utilities.to_numpy() == logs[1][:5000]).all()


def test_a_row_can_be_made_alone(model, logs):
    for row in (0, 1, 31, 32, 33, 9999):
        alone, _ = synthetic.make_rows(model, row, row + 1)
        assert alone.equals(logs[0].slice(row, 1).combine_chunks())


def test_rows_are_made_when_they_are_asked_for(model):
    chunks = synthetic.make_chunks(model, 0, 10**12, chunk_rows=100, num_workers=2)

    assert [len(table) for table, _ in itertools.islice(chunks, 5)] == [100] * 5
    chunks.close()


def test_another_seed_changes_every_column(logs):
    other, _ = synthetic.make_rows(plant(1), 0, NUM_ROWS)

    assert other.schema == logs[0].schema == synthetic.SCHEMA
    assert [name for name in other.column_names if other[name].equals(logs[0][name])] == []


def test_null_shares_are_the_columns(logs):
    for column in (*NUMERIC, *CATEGORICAL):
        share = logs[0][column.name].null_count / NUM_ROWS
        spread = math.sqrt(column.null_share * (1 - column.null_share) / NUM_ROWS)
        assert share == pytest.approx(column.null_share, abs=5 * spread), column.name
    assert sum(logs[0][name].null_count for name in ("user_id", "click", "watch_time")) == 0


def test_counts_are_whole_numbers_spread_around_their_median(logs):
    for column in NUMERIC:
        counts = logs[0][column.name].drop_null().to_numpy()
        assert (counts == np.floor(counts)).all()
        assert counts.min() >= 0
        assert (counts < column.median).mean() < 0.5 + 0.02
        assert (counts <= column.median).mean() > 0.5 - 0.02


def test_large_columns_have_long_tails(logs):
    for column in CATEGORICAL:
        counts = np.sort(pc.value_counts(logs[0][column.name].drop_null()).field("counts"))[::-1]
        assert len(counts) <= column.size
        if column.size >= 10_000:
            assert (counts == 1).sum() > len(counts) / 2, column.name
            assert counts[0] > NUM_ROWS / 50, column.name


def test_equal_ids_are_equal_words_of_eight_digits(logs, draws):
    words = logs[0]["cat_0"].to_pylist()
    pairs = set(zip(words, draws.ids["cat_0"].tolist(), strict=True))

    assert len(pairs) == len(set(words)) == len({number for _, number in pairs})
    assert all(len(word) == 8 and int(word, 16) >= 0 for word in words)


def test_a_session_is_a_run_of_rows_of_one_user(logs):
    sessions = logs[0]["session_id"].to_numpy(zero_copy_only=False)
    users = logs[0]["user_id"].to_numpy()
    starts = np.flatnonzero(np.append(True, sessions[1:] != sessions[:-1]))

    assert len(np.unique(sessions)) == len(starts)
    for start, stop in itertools.pairwise(starts[:500]):
        assert len(set(users[start:stop])) == 1
    assert 3 < NUM_ROWS / len(starts) < 8
    assert (np.diff(logs[0]["event_time"].to_numpy()) > 0).all()


# The planted model.


def test_clicks_come_with_the_probability_that_the_utility_says(logs):
    rows, utilities = logs
    click, probability = rows["click"].to_numpy(), sigmoid(utilities)

    for tenth in np.array_split(np.argsort(utilities), 10):
        expected = probability[tenth].mean()
        spread = math.sqrt((probability[tenth] * (1 - probability[tenth])).sum()) / len(tenth)
        assert click[tenth].mean() == pytest.approx(expected, abs=4.5 * spread)
    assert click.mean() == pytest.approx(0.25, abs=0.02)


def test_watch_time_given_the_utility_is_independent_of_all_else(logs):
    rows, utilities = logs
    log_watch_time = np.log(rows["watch_time"].to_numpy().astype(float))
    slope, level = np.polyfit(utilities, log_watch_time, 1)
    noise = log_watch_time - slope * utilities - level

    assert slope > 0.3
    limit = 5 / math.sqrt(NUM_ROWS)
    for other in (utilities**2, rows["click"].to_numpy(), rows["sample_weight"].to_numpy()):
        assert abs(np.corrcoef(noise, other)[0, 1]) < limit
    assert abs(np.corrcoef(noise**2, utilities)[0, 1]) < limit


def test_a_long_view_is_half_a_minute_or_more(logs):
    rows, _ = logs

    assert (rows["long_view"].to_numpy() == (rows["watch_time"].to_numpy() > 30)).mean() > 0.9999
    assert 0.2 < rows["long_view"].to_numpy().mean() < 0.4


def test_the_utility_is_a_function_of_the_written_columns(model, logs, draws):
    # What two rows write of a column they share must be what they share in the draws.
    for column in CATEGORICAL:
        written = logs[0][column.name].is_null().to_numpy()
        assert (written == (draws.ids[column.name] == 0)).all()
    for column in NUMERIC:
        written = logs[0][column.name].to_numpy().astype(float)
        assert np.array_equal(written, draws.counts[column.name], equal_nan=True)
    shuffled = Draws(draws.counts, draws.ids, draws.sessions[::-1])

    assert (utility(model, shuffled) == logs[1]).all()


@pytest.mark.parametrize("strength", [0.5, 1.0, 3.0])
def test_no_disturbed_score_beats_the_utility(logs, strength):
    rows, utilities = logs
    best = synthetic.best_possible(rows, utilities)
    noise = np.random.default_rng(0).normal(size=NUM_ROWS)

    for disturbed in (utilities + strength * noise, utilities + strength * np.sin(3 * noise)):
        worse = synthetic.best_possible(rows, disturbed)
        assert all(worse[name] < best[name] for name in best)


def test_neither_numbers_alone_nor_sums_over_columns_come_near(model, logs, draws):
    rows, utilities = logs
    no_ids = Draws(
        draws.counts, {k: v * np.uint64(0) for k, v in draws.ids.items()}, draws.sessions
    )
    no_crosses = dataclasses.replace(
        model, cross_deviations=(math.inf,) * len(model.cross_deviations)
    )

    def share(scores) -> float:
        reached, best = (synthetic.best_possible(rows, s)["auc"] for s in (scores, utilities))
        return (reached - 0.5) / (best - 0.5)

    # Both with the true weights, which no model finds out.
    assert share(utility(model, no_ids)) < 0.4
    assert share(utility(no_crosses, draws)) < 0.82


def test_a_cross_looks_like_noise_to_each_of_its_columns(model, logs, draws):
    no_crosses = dataclasses.replace(
        model, cross_deviations=(math.inf,) * len(model.cross_deviations)
    )
    crosses = logs[1] - utility(no_crosses, draws)

    assert crosses.std() > 0.8
    for name in ("cat_5", "cat_13", "cat_16", "cat_22"):
        ids = draws.ids[name]
        for value in range(1, 5):
            own = crosses[ids == value]
            assert abs(own.mean()) < 5 * own.std() / math.sqrt(len(own)) + 0.03, (name, value)


@pytest.mark.parametrize("seed", range(4))
def test_every_seed_is_about_as_hard(seed):
    rows, utilities = synthetic.make_rows(plant(seed), 0, 20_000)

    best = synthetic.best_possible(rows, utilities.to_numpy())
    assert np.std(utilities) == pytest.approx(1.9, abs=0.1)
    assert best["auc"] == pytest.approx(0.86, abs=0.02)
    assert best["grouped_auc"] < best["auc"]


# Files.


def test_best_possible_is_what_the_utility_reaches_on_the_written_rows(tmp_path):
    best = write(tmp_path / "logs")
    rows = read(tmp_path / "logs" / "eval")
    _, utilities = synthetic.make_rows(plant(3), 3000, 4200)
    scores = utilities.to_numpy()
    click, users = rows["click"].to_numpy(), rows["user_id"].to_numpy()

    assert best == json.loads((tmp_path / "logs" / "best_possible.json").read_text())
    assert best["auc"] == pytest.approx(roc_auc_score(click, scores), abs=1e-12)
    assert best["grouped_auc"] == pytest.approx(mean_auc_of_users(users, click, scores), abs=1e-12)
    watch_time = rows["watch_time"].to_numpy().astype(float)
    assert best["xauc"] == pytest.approx(brute_xauc(scores, watch_time), abs=1e-12)


@pytest.mark.filterwarnings("ignore:.* is NaN")
def test_a_score_that_does_not_exist_is_null(tmp_path):
    write(tmp_path / "logs", eval_rows=1)

    best = json.loads((tmp_path / "logs" / "best_possible.json").read_text())
    assert best == {"auc": None, "grouped_auc": None, "xauc": None}


def test_evaluation_rows_follow_the_training_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "CHUNK_ROWS", 512)
    monkeypatch.setattr(synthetic, "FILE_ROWS", 1024)
    write(tmp_path / "logs")
    expected, _ = synthetic.make_rows(plant(3), 0, 4200)

    files = sorted((tmp_path / "logs" / "train").iterdir())
    assert [parquet.read_metadata(path).num_rows for path in files] == [1024, 1024, 952]
    assert [path.name for path in files] == [f"part-0000{i}.parquet" for i in range(3)]
    train, evaluation = (read(tmp_path / "logs" / name) for name in ("train", "eval"))
    assert pa.concat_tables([train, evaluation]).combine_chunks().equals(expected.combine_chunks())


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_files_are_equal_whatever_the_number_of_workers(tmp_path, monkeypatch, file_format):
    monkeypatch.setattr(synthetic, "CHUNK_ROWS", 512)
    for num_workers in (0, 1, 3):
        write(tmp_path / str(num_workers), file_format=file_format, num_workers=num_workers)

    names = sorted(p.relative_to(tmp_path / "0") for p in (tmp_path / "0").rglob("*.*"))
    assert len(names) == 3
    for name in names:
        content = (tmp_path / "0" / name).read_bytes()
        assert all((tmp_path / other / name).read_bytes() == content for other in ("1", "3"))


def test_csv_holds_what_parquet_holds(tmp_path):
    best = [write(tmp_path / kind, file_format=kind) for kind in ("parquet", "csv")]
    types = {field.name: field.type for field in synthetic.SCHEMA}
    for name in ("train", "eval"):
        options = csv.ConvertOptions(column_types=types, strings_can_be_null=True)
        table = csv.read_csv(tmp_path / "csv" / name / "part-00000.csv", convert_options=options)
        assert table.combine_chunks().equals(read(tmp_path / "parquet" / name).combine_chunks())
    assert best[0] == best[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, "rows must be 1 or more, got 0"),
        ({"eval_rows": -1}, "eval_rows must be 1 or more, got -1"),
        ({"num_workers": -1}, "num_workers must be 0 or more, got -1"),
        ({"file_format": "xml"}, "format must be parquet or csv, got 'xml'"),
    ],
)
def test_a_wrong_setting_is_named_and_leaves_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "logs", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "notes").touch()

    with pytest.raises(ValueError, match="is not empty"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_the_command_writes_what_its_flags_say(tmp_path):
    command = ["--output", str(tmp_path / "logs"), "--rows", "50", "--eval_rows", "20"]
    synthetic.main([*command, "--seed", "3", "--format", "csv", "--num_workers", "1"])

    expected, _ = synthetic.make_rows(plant(3), 0, 50)
    written = csv.read_csv(tmp_path / "logs" / "train" / "part-00000.csv")
    assert written["user_id"].to_pylist() == expected["user_id"].to_pylist()


@pytest.mark.parametrize("flag", ["--row=50", "--users=3", "--format=xml"])
def test_the_command_refuses_flags_it_does_not_know(tmp_path, capsys, flag):
    with pytest.raises(SystemExit):
        synthetic.main([f"--output={tmp_path / 'logs'}", "--rows=5", "--eval_rows=5", flag])
    assert flag.split("=")[0] in capsys.readouterr().err


def test_the_demo_config_fits_the_logs(logs):
    demo = config.load(str(DEMO_CONFIG))
    config.check(demo)
    encoded = encode(logs[0].slice(0, 500), build_schema(demo))

    assert encoded.table.num_rows == 500
    for number in NUMERIC:
        values = encoded.table[number.name].to_numpy()
        assert np.isfinite(values).all()
        assert abs(np.median(values)) < 0.5
        assert np.std(values) < 2
    for column in CATEGORICAL:
        assert encoded.counts[column.name].nulls == logs[0][column.name].slice(0, 500).null_count
