import contextlib
import json
import math
import re
import resource
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from xxhash import xxh64_intdigest

from tzrec_core.command_line import run
from tzrec_core.config import loads, save
from tzrec_core.data import prepare as prepare_module
from tzrec_core.data.build import build_dataset
from tzrec_core.data.prepare import PreparedData, main, prepare
from tzrec_core.features.build import build_schema
from tzrec_core.protos import data_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

NUM_ROWS = 3000
CONFIG = """
model_dir: "unused"
train_config {
  sparse_optimizer { adagrad_optimizer { lr: 0.01 } constant_learning_rate {} }
  dense_optimizer { adam_optimizer { lr: 0.001 } constant_learning_rate {} }
  num_epochs: 1
}
data_config {
  dataset_type: ParquetDataset
  fg_mode: FG_NORMAL
  with_header: true
  batch_size: 128
  num_workers: 2
  label_fields: "row"
  sample_weight_fields: "weight"
}
feature_configs { raw_feature { feature_name: "price" expression: "item:cost" } }
feature_configs {
  id_feature {
    feature_name: "user" expression: "user:user_name" hash_bucket_size: 1000 embedding_dim: 4
    value_dim: 1
  }
}
feature_configs {
  id_feature {
    feature_name: "shop" expression: "item:shop" num_buckets: 40 embedding_dim: 4 value_dim: 1
  }
}
feature_configs {
  id_feature {
    feature_name: "tags" expression: "item:tags" num_buckets: 100 embedding_dim: 4 separator: "|"
  }
}
model_config {
  feature_groups {
    group_name: "deep" group_type: DEEP
    feature_names: "price" feature_names: "user" feature_names: "shop" feature_names: "tags"
  }
  multi_tower { towers { input: "deep" mlp { hidden_units: 8 } } final { hidden_units: 4 } }
  losses { l2_loss {} }
  metrics { mean_absolute_error {} }
  metrics { grouped_auc { grouping_key: "user" } }
}
"""


def config_of(**data_settings: object) -> EasyRecConfig:
    config = loads(CONFIG, source="test")
    for name, value in data_settings.items():
        setattr(config.data_config, name, value)
    return config


def make_raw(num_rows: int = NUM_ROWS, seed: int = 0) -> pa.Table:
    """The label is the number of the row; the time is in no order."""
    draw = np.random.default_rng(seed)
    users = [f"ü{number}" for number in draw.integers(0, 200, num_rows)]
    tags = ["|".join(map(str, draw.integers(0, 99, n))) for n in draw.integers(0, 4, num_rows)]
    return pa.table(
        {
            "row": np.arange(num_rows),
            "weight": draw.random(num_rows),
            "cost": pa.array(draw.normal(3, 2, num_rows), mask=draw.random(num_rows) < 0.2),
            "user_name": pa.array(users, mask=draw.random(num_rows) < 0.1),
            "shop": pa.array(draw.integers(-5, 45, num_rows), mask=draw.random(num_rows) < 0.1),
            "tags": tags,
            "time": draw.integers(0, 500, num_rows),
        }
    )


@pytest.fixture(scope="module")
def raw() -> pa.Table:
    return make_raw()


@pytest.fixture
def folder(tmp_path: Path, raw: pa.Table) -> Path:
    """A folder with the raw rows in ``in/``."""
    (tmp_path / "in").mkdir()
    pq.write_table(raw.slice(0, 1000), tmp_path / "in" / "a.parquet", row_group_size=300)
    pq.write_table(raw.slice(1000), tmp_path / "in" / "b.parquet", row_group_size=300)
    return tmp_path


def prepare_in(folder: Path, config: EasyRecConfig | None = None, **settings) -> PreparedData:
    defaults = {
        "train_input_path": str(folder / "in"),
        "eval_input_path": None,
        "output_dir": folder / "out",
        "eval_fraction": 0.2,
        "split_by": "rows",
        "seed": 0,
        "progress": lambda line: None,
    }
    return prepare(config or config_of(), **(defaults | settings))


def shard_rows(prepared: PreparedData, share: str) -> pa.Table:
    return pq.read_table(prepared.path / share)


def entries(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def expected_row(row: dict) -> dict:
    """Encodes one raw row by the rules of the features, in plain Python."""
    name, shop = row["user_name"], row["shop"]
    hashed = None if name is None else xxh64_intdigest(name.encode())
    signed = None if hashed is None else hashed - (2**64 if hashed >= 2**63 else 0)
    return {
        "price": np.float32(0.0 if row["cost"] is None else row["cost"]),
        "user": None if hashed is None else hashed % 1000,
        "shop": shop if shop is not None and 0 <= shop < 40 else None,
        "tags": [int(tag) for tag in row["tags"].split("|") if tag],
        "row": row["row"],
        "weight": np.float32(row["weight"]),
        "user@id": signed,
    }


def test_every_row_is_encoded_and_in_one_share_in_random_order(folder, raw):
    prepared = prepare_in(folder)
    train, evaluation = shard_rows(prepared, "train"), shard_rows(prepared, "eval")

    rows = sorted([*train.to_pylist(), *evaluation.to_pylist()], key=lambda row: row["row"])
    assert rows == [expected_row(row) for row in raw.to_pylist()]
    assert len(evaluation) / NUM_ROWS == pytest.approx(0.2, abs=0.03)
    for share in (train, evaluation):
        order = share["row"].to_numpy()
        assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.1
    assert entries(folder / "out") == [
        f"{prepared.fingerprint}/{name}"
        for name in (
            "_SUCCESS",
            "_stats.json",
            "eval/part-00000.parquet",
            "train/part-00000.parquet",
        )
    ]


def test_the_result_does_not_depend_on_how_the_input_is_cut_or_how_much_memory_there_is(
    folder, raw
):
    first = prepare_in(folder)
    for path in (folder / "in").iterdir():
        path.unlink()
    for index, start in enumerate(range(0, NUM_ROWS, 400)):
        piece = raw.slice(start, 400)
        pq.write_table(piece, folder / "in" / f"{index}.parquet", row_group_size=77)

    for number, settings in enumerate(
        [{}, {"max_rows_in_memory": 500}, {"max_rows_in_memory": 40}]
    ):
        again = prepare_in(folder, output_dir=folder / f"out{number}", **settings)

        assert again.fingerprint != first.fingerprint  # other files
        assert again.stats == first.stats
        for share in ("train", "eval"):
            assert shard_rows(again, share) == shard_rows(first, share)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_result_does_not_depend_on_the_number_of_threads(folder, num_workers):
    first = prepare_in(folder)
    again = prepare_in(folder, config_of(num_workers=num_workers), output_dir=folder / "out2")

    assert again.fingerprint == first.fingerprint
    for name in entries(first.path):
        assert (again.path / name).read_bytes() == (first.path / name).read_bytes()


def test_csv_gives_the_same_data_as_parquet(folder, raw):
    first = prepare_in(folder)
    (folder / "csv").mkdir()
    pacsv.write_csv(raw, folder / "csv" / "a.csv")
    config = config_of(dataset_type=data_pb2.CsvDataset)

    again = prepare_in(folder, config, train_input_path=str(folder / "csv"))

    for share in ("train", "eval"):
        assert shard_rows(again, share) == shard_rows(first, share)


def test_the_seed_changes_split_and_order(folder):
    rows = [
        [shard_rows(prepare_in(folder, seed=seed), s)["row"].to_pylist() for s in ("train", "eval")]
        for seed in (0, 1)
    ]

    assert sorted(rows[0][1]) != sorted(rows[1][1])
    assert rows[0][0] != rows[1][0]


def test_rows_for_evaluation_of_their_own_are_not_split(folder, raw):
    pq.write_table(make_raw(100, seed=1), folder / "eval.parquet")

    prepared = prepare_in(folder, eval_input_path=str(folder / "eval.parquet"))

    assert sorted(shard_rows(prepared, "train")["row"].to_pylist()) == list(range(NUM_ROWS))
    assert sorted(shard_rows(prepared, "eval")["row"].to_pylist()) == list(range(100))


def test_a_user_is_in_one_share_only(folder, raw):
    prepared = prepare_in(folder, split_by="hash:user_name")

    ids = [set(shard_rows(prepared, s)["user@id"].to_pylist()) - {None} for s in ("train", "eval")]
    assert not ids[0] & ids[1]
    assert len(ids[1]) / 200 == pytest.approx(0.2, abs=0.1)


def test_evaluation_by_time_has_the_latest_rows(folder, raw):
    prepared = prepare_in(folder, split_by="time:time", max_rows_in_memory=500)

    times = raw["time"].to_numpy()
    boundary = np.sort(times)[NUM_ROWS - round(0.2 * NUM_ROWS)]
    rows = sorted(shard_rows(prepared, "eval")["row"].to_pylist())
    assert rows == np.flatnonzero(times >= boundary).tolist()


def test_the_dataset_reads_prepared_data_as_the_raw_rows(folder, raw):
    config = config_of()
    prepared = prepare_in(folder, config)

    def rows(config: EasyRecConfig, path: Path) -> dict:
        schema = build_schema(config)
        data = build_dataset(
            config, schema, input_path=str(path), training=False, rank=0, world_size=1
        )
        found = {}
        for batch in data.batches(0):
            ids = {key: bags.to_dense() for key, bags in batch.sparse.to_dict().items()}
            for index, row in enumerate(batch.labels["row"].tolist()):
                found[row] = (
                    batch.dense[index].tolist(),
                    [ids[key][index].tolist() for key in ("user", "shop", "tags")],
                    batch.ids("user")[index].item(),
                    batch.sample_weights["weight"][index].item(),
                )
        return found

    from_raw = rows(config, folder / "in")
    config.data_config.fg_mode = data_pb2.FG_NONE
    from_prepared = {}
    for share in ("train", "eval"):
        from_prepared |= rows(config, prepared.path / share)
    assert len(from_raw) == NUM_ROWS
    assert from_prepared == from_raw


def test_costs_of_rows_are_prepared_although_they_are_no_feature(folder, raw):
    config = config_of(sample_cost_field="time", batch_cost_size=2000)
    prepared = prepare_in(folder, config)
    assert prepared.fingerprint != prepare_in(folder, output_dir=folder / "other").fingerprint
    assert prepared.stats["train"]["columns"]["time@cost"]["min"] >= 0

    config.data_config.fg_mode = data_pb2.FG_NONE
    schema = build_schema(config)
    path = str(prepared.path / "train")
    data = build_dataset(config, schema, input_path=path, training=True, rank=0, world_size=1)
    batches = [batch.labels["row"].numpy() for batch in data.batches(0)]

    costs = [raw["time"].to_numpy()[rows].sum() for rows in batches]
    assert max(costs) <= 2000
    assert sum(map(len, batches)) == prepared.stats["train"]["rows"]


def test_statistics_are_those_of_the_raw_rows(folder, raw):
    pq.write_table(raw.slice(0, 10), folder / "eval.parquet")
    prepared = prepare_in(folder, eval_input_path=str(folder / "eval.parquet"))

    assert prepared.stats == json.loads((prepared.path / "_stats.json").read_text())
    assert prepared.stats["eval"]["rows"] == 10
    train = prepared.stats["train"]
    assert train["rows"] == NUM_ROWS
    assert train["label_means"] == {"row": pytest.approx((NUM_ROWS - 1) / 2)}

    price = train["columns"]["price"]
    cost = raw["cost"].fill_null(0).to_numpy().astype(np.float32).astype(np.float64)
    assert price["nulls"] == raw["cost"].null_count
    assert (price["min"], price["max"]) == (cost.min(), cost.max())
    assert (price["mean"], price["std"]) == pytest.approx((cost.mean(), cost.std()))
    assert price["distinct"] == len(np.unique(cost))

    shop = train["columns"]["shop"]
    shops = [shop for shop in raw["shop"].to_pylist() if shop is not None]
    outside = sum(not 0 <= shop < 40 for shop in shops)
    assert outside > 100
    assert shop["nulls"] == raw["shop"].null_count
    assert shop["out_of_vocabulary"] == outside
    assert shop["out_of_vocabulary_share"] == outside / len(shops)
    assert (shop["distinct"], shop["num_embeddings"]) == (40, 40)

    tags = train["columns"]["tags"]
    assert tags["nulls"] == raw["tags"].to_pylist().count("")
    assert tags["distinct"] == len(
        {t for text in raw["tags"].to_pylist() for t in text.split("|") if t}
    )
    assert train["columns"]["user@id"]["distinct"] == 200


@pytest.mark.parametrize(
    ("setting", "fate"),
    [
        ("", "they are left out, rows without any other have no id and embedding 0"),
        ("default_bucketize_value: 7", "they get id 7"),
        (
            'default_value: "3"',
            "they are left out, rows without any other get the id of default_value, 3",
        ),
    ],
)
def test_a_warning_says_of_a_feature_how_many_values_are_outside_and_what_becomes_of_them(
    folder, raw, caplog, setting, fate
):
    config = loads(CONFIG.replace("num_buckets: 40", f"num_buckets: 40 {setting}"), source="c")
    shops = [shop for shop in raw["shop"].to_pylist() if shop is not None]

    prepared = prepare_in(folder, config)
    prepare_in(folder, config)

    shares = {s: prepared.stats[s]["columns"]["shop"] for s in ("train", "eval")}
    counts = {share: column["out_of_vocabulary"] for share, column in shares.items()}
    assert sum(counts.values()) == sum(not 0 <= shop < 40 for shop in shops)
    found = ", ".join(
        f"{counts[share]} in {share} ({column['out_of_vocabulary_share']:.2%} of its values)"
        for share, column in shares.items()
    )
    lines = [told.getMessage() for told in caplog.records if told.levelname == "WARNING"]
    line = f"feature shop: values outside its range or vocabulary: {found}; {fate}"
    assert lines == [line, line]  # also where the data was there already


def test_prepared_data_is_used_again(folder, monkeypatch):
    first = prepare_in(folder)
    monkeypatch.setattr(prepare_module, "encode_parts", None)  # to prepare again would fail
    lines: list[str] = []

    again = prepare_in(folder, progress=lines.append)

    assert (first.reused, again.reused) == (False, True)
    assert (again.path, again.stats) == (first.path, first.stats)
    assert lines == [f"Prepared data is there already: {first.path}"]


def test_data_without_its_mark_is_prepared_again(folder):
    first = prepare_in(folder)
    before = entries(first.path)
    (first.path / "_SUCCESS").unlink()
    (first.path / "train" / "part-00000.parquet").write_bytes(b"")

    again = prepare_in(folder)

    assert (again.path, again.reused) == (first.path, False)
    assert entries(again.path) == before
    assert len(shard_rows(again, "train")) == first.stats["train"]["rows"]


def changed(name: str, folder: Path, config: EasyRecConfig) -> dict:
    """Changes one thing; returns the arguments that differ."""
    feature = config.feature_configs[1].id_feature
    match name:
        case "file":
            pq.write_table(make_raw(10), folder / "in" / "c.parquet")
        case "date":
            (folder / "in" / "a.parquet").touch()
        case "buckets":
            feature.hash_bucket_size = 999
        case "dimension":
            feature.embedding_dim, feature.pooling, feature.embedding_name = 32, "mean", "other"
        case "model":
            config.model_config.multi_tower.final.hidden_units[:] = [99]
        case "delimiter":
            config.data_config.delimiter = ";"
        case "label":
            config.data_config.label_fields.append("time")
        case "group":
            config.model_config.metrics.add().grouped_auc.grouping_key = "shop"
        case "batch":
            config.data_config.batch_size = 7
        case "seed":
            return {"seed": 1}
        case "split":
            return {"split_by": "hash:shop"}
        case "fraction":
            return {"eval_fraction": 0.3}
        case "eval":
            return {"eval_input_path": str(folder / "in" / "b.parquet")}
    return {}


@pytest.mark.parametrize(
    ("name", "reused"),
    [
        ("nothing", True),
        ("dimension", True),
        ("model", True),
        ("delimiter", True),  # the input is Parquet
        ("batch", True),
        ("file", False),
        ("date", False),
        ("buckets", False),
        ("label", False),
        ("group", False),
        ("seed", False),
        ("split", False),
        ("fraction", False),
        ("eval", False),
    ],
)
def test_only_a_change_that_counts_prepares_again(folder, name, reused):
    prepare_in(folder)
    config = config_of()

    assert prepare_in(folder, config, **changed(name, folder, config)).reused == reused


def test_a_changed_vocabulary_file_prepares_again(folder):
    config = config_of()
    shop = config.feature_configs[2].id_feature
    shop.ClearField("num_buckets")
    shop.vocab_file = str(folder / "vocabulary")
    fingerprints = set()
    for words in ("1\n2\n", "1\n3\n", "1\n2\n"):
        (folder / "vocabulary").write_text(words)
        fingerprints.add(prepare_in(folder, config).fingerprint)

    assert len(fingerprints) == 2


def damage(path: Path) -> None:
    """Makes all rows unreadable; names and types stay readable."""
    metadata = pq.read_metadata(path)
    content = bytearray(path.read_bytes())
    stop = content.rindex(b"PAR1") - metadata.serialized_size - 4
    content[4 : stop - 4] = b"\xff" * (stop - 8)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("replacement", "settings", "message"),
    [
        ({"cost": None}, {}, "column 'cost', needed as feature 'price', is not in the data"),
        ({"row": None}, {}, "column 'row', needed as a label, is not in the data"),
        ({"weight": None}, {}, "column 'weight', needed as a sample weight"),
        ({"user_name": None}, {}, "column 'user_name'"),
        ({"row": pa.string()}, {}, "'row'.*got string"),
        ({"shop": pa.timestamp("s")}, {}, "feature 'shop', column 'shop'.*got timestamp"),
        ({}, {"split_by": "time:nothing"}, "split_by is 'time:nothing'.*only the columns"),
        ({}, {"split_by": "time:user_name"}, "the column holds string, not numbers"),
    ],
)
def test_a_missing_or_ill_typed_column_is_found_before_rows_are_read(
    folder, raw, replacement, settings, message
):
    for name, kind in replacement.items():
        raw = raw.drop_columns(name)
        if kind is not None:
            raw = raw.append_column(name, pa.array([None] * len(raw), kind))
    for path in (folder / "in").iterdir():
        pq.write_table(raw, path)
        damage(path)

    with pytest.raises(ValueError, match=message):
        prepare_in(folder, **settings)
    assert not (folder / "out").exists()


def test_columns_of_rows_for_evaluation_are_checked_too(folder, raw):
    pq.write_table(raw.drop_columns("cost"), folder / "eval.parquet")

    with pytest.raises(ValueError, match="column 'cost'"):
        prepare_in(folder, eval_input_path=str(folder / "eval.parquet"))


@pytest.mark.parametrize("kind", ["damaged", "null label", "truncated"])
@pytest.mark.parametrize("max_rows_in_memory", [100, 10**6])
def test_a_bad_file_is_an_error_that_names_it_and_nothing_is_left(
    folder, raw, kind, max_rows_in_memory
):
    path = folder / "in" / "b.parquet"
    if kind == "null label":
        rows = pa.array([*raw["row"].to_pylist()[:-1], None], pa.int64())
        pq.write_table(raw.set_column(0, "row", rows), path)
    elif kind == "damaged":
        damage(path)
    else:
        path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(ValueError, match=r"b\.parquet: "):
        prepare_in(folder, max_rows_in_memory=max_rows_in_memory)
    assert not (folder / "out").exists() or entries(folder / "out") == []


@pytest.mark.parametrize(
    ("num_rows", "settings", "message"),
    [
        (1, {}, "no rows for (train|eval)"),
        (5, {"split_by": "time:row", "eval_fraction": 0.95}, "no rows for train"),
    ],
)
def test_a_split_that_leaves_no_rows_is_an_error(folder, num_rows, settings, message):
    for path in (folder / "in").iterdir():
        path.unlink()
    pq.write_table(make_raw(num_rows), folder / "in" / "a.parquet")

    with pytest.raises(ValueError, match=message):
        prepare_in(folder, **settings)
    assert entries(folder / "out") == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_fraction": 0.0}, "eval_fraction must be between 0 and 1, got 0"),
        ({"eval_fraction": 1.0}, "eval_fraction must be between 0 and 1, got 1"),
        ({"split_by": "user"}, "split_by must be rows, hash"),
        ({"seed": -1}, "seed must be 0 or more .* got -1"),
        ({"train_input_path": "/no/such/file"}, "'/no/such/file' does not exist"),
    ],
)
def test_impossible_settings_are_errors(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        prepare_in(folder, **settings)


def test_an_output_that_cannot_be_written_is_an_error_that_names_it(folder):
    (folder / "file").touch()

    with pytest.raises(OSError, match=r"cannot be written to .*file/out"):
        prepare_in(folder, output_dir=folder / "file" / "out")


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Makes writing beyond ``size`` bytes of a file fail, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("max_rows_in_memory", [800, 10**6])
def test_a_full_disk_is_an_error_and_nothing_is_left(folder, max_rows_in_memory):
    with largest_file(2000), pytest.raises(OSError, match="prepared data cannot be written to"):
        prepare_in(folder, max_rows_in_memory=max_rows_in_memory)

    assert entries(folder / "out") == []


def test_progress_is_whole_lines_with_the_rate(folder, monkeypatch):
    monkeypatch.setattr(prepare_module, "_SECONDS_BETWEEN_REPORTS", 0.0)
    lines: list[str] = []

    prepare_in(folder, progress=lines.append)

    assert any(line.startswith("Read 3000 of about 3000 rows, ") for line in lines)
    assert lines[-1].startswith("Prepared 3000 rows in ")
    assert not any(character in line for line in lines for character in "\r\n")


@pytest.fixture
def config_path(folder: Path) -> Path:
    save(config_of(), folder / "pipeline.config")
    return folder / "pipeline.config"


def test_the_command_prepares_and_prints_where(folder, config_path, capsys):
    arguments = [
        f"--pipeline_config_path={config_path}",
        f"--train_input_path={folder / 'in' / '*.parquet'}",
        f"--output_dir={folder / 'out'}",
        "--eval_fraction=0.5",
        "--split_by=hash:user_name",
        "--seed=3",
        '--edit_config_json={"feature_configs[0].raw_feature.feature_name": "p",'
        ' "model_config.feature_groups[0].feature_names[0]": "p"}',
    ]
    main(arguments)

    path = Path(capsys.readouterr().out.strip())
    assert path.parent == folder / "out"
    stats = json.loads((path / "_stats.json").read_text())
    assert "p" in stats["train"]["columns"]
    assert math.isclose(stats["eval"]["rows"] / NUM_ROWS, 0.5, abs_tol=0.1)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # it is imported here already
def test_the_command_shows_progress(folder, config_path, capsys, monkeypatch):
    arguments = [
        f"--pipeline_config_path={config_path}",
        f"--train_input_path={folder / 'in'}",
        f"--output_dir={folder / 'out'}",
    ]
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments])

    runpy.run_module("tzrec_core.data.prepare", run_name="__main__")

    output = capsys.readouterr().out
    assert re.search(r"\[INFO\] Prepared 3000 rows in [\d.]+ s, \d+ rows/s", output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train_input_path=/no/such"], "error: input path '/no/such' does not exist\n"),
        (["--train_input_path=/no/such", "--eval_frac=0.5"], "unrecognized arguments: --eval_frac"),
        ([], "the following arguments are required: --train_input_path"),
    ],
)
def test_the_command_reports_a_mistake_and_exits_with_2(
    folder, config_path, arguments, message, capsys
):
    flags = [f"--pipeline_config_path={config_path}", f"--output_dir={folder / 'out'}"]

    with pytest.raises(SystemExit) as exit_:
        run(main, [*flags, *arguments])

    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not (folder / "out").exists()
