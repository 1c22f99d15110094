import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from tests.distributed.ranks import RankError, spawn
from tests.programs import BEYOND_SERVING, run_without
from tests.tzrec_core import clicks
from tzrec_core.checkpoints import checkpoint
from tzrec_core.config import loads
from tzrec_core.evaluation.evaluator import evaluate_checkpoint
from tzrec_core.exporting import exporter
from tzrec_core.exporting.directory import load_config
from tzrec_core.predictor import predict_checkpoint, predict_exported
from tzrec_core.training.trainer import train_and_evaluate


def train(text):
    config = loads(text, source="test")
    train_and_evaluate(config, continue_train=False, ignore_restore_optimizer=False)


def predict(text, path, input_path, output_path):
    predict_checkpoint(
        loads(text, source="test"),
        checkpoint_path=path,
        input_path=input_path,
        output_path=output_path,
        reserved_columns=["row", "click", "user_id"],
        output_columns=[],
        num_steps=None,
    )


def predict_scripted(export_dir, input_path, output_path, reserved_columns, output_columns):
    config = load_config(export_dir)
    config.data_config.eval_batch_size = 32
    predict_exported(
        config,
        export_dir=export_dir,
        input_path=input_path,
        output_path=output_path,
        reserved_columns=reserved_columns,
        output_columns=output_columns,
        num_steps=None,
    )


def evaluate(text, path, result_path):
    config = loads(text, source="test")
    evaluate_checkpoint(config, checkpoint_path=path, result_path=result_path)


def export(text, path, export_dir, asset_files=()):
    config = loads(text, source="test")
    return exporter.export(
        config,
        checkpoint_path=path,
        export_dir=export_dir,
        check_config=config,
        asset_files=asset_files,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data, a trained model, its config's text and its checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    text = clicks.write(folder, train_rows=64 * 8, eval_rows=301)
    spawn(train, 1, text)
    return folder, text, checkpoint.latest(folder / "model")


@pytest.fixture(scope="module")
def exported(trained):
    folder, text, path = trained
    spawn(export, 1, text, path, folder / "export")
    return folder / "export"


def test_evaluation_agrees_with_scikit_learn_on_the_predictions(trained, tmp_path):
    folder, text, path = trained
    spawn(evaluate, 2, text, path, tmp_path / "eval_result.txt")
    spawn(predict, 2, text, path, str(folder / "eval.parquet"), tmp_path / "scores")

    assert sorted(p.name for p in (tmp_path / "scores").iterdir()) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    scored = pq.read_table(tmp_path / "scores").to_pandas().sort_values("row")
    assert scored["row"].tolist() == list(range(301))  # every row once
    result = json.loads((tmp_path / "eval_result.txt").read_text())
    click, probs = scored["click"], scored["probs"].astype(float)
    assert result["auc"] == pytest.approx(roc_auc_score(click, probs), abs=1e-9)
    assert result["binary_cross_entropy"] == pytest.approx(log_loss(click, probs), abs=1e-6)
    per_user = [
        roc_auc_score(user["click"], user["probs"])
        for _, user in scored.groupby("user_id")
        if user["click"].nunique() == 2
    ]
    assert result["grouped_auc"] == pytest.approx(np.mean(per_user), abs=1e-9)
    watch = pq.read_table(folder / "eval.parquet")["watch"].to_numpy()
    p = probs.to_numpy()
    in_order = (p[:, None] - p) * (watch[:, None] - watch) > 0
    assert result["xauc"] == pytest.approx(in_order.sum() / (301 * 300), abs=1e-9)


def test_an_exported_model_scores_raw_rows_as_the_checkpoint_does(trained, exported, tmp_path):
    folder, text, path = trained
    rows = str(folder / "eval.parquet")
    spawn(predict, 1, text, path, rows, tmp_path / "checkpoint")
    spawn(predict_scripted, 1, exported, rows, tmp_path / "export", ["ALL_COLUMNS"], ["probs"])

    ours, theirs = pq.read_table(tmp_path / "checkpoint"), pq.read_table(tmp_path / "export")
    assert theirs.column_names == [*pq.read_schema(rows).names, "probs"]
    assert theirs["row"].to_pylist() == ours["row"].to_pylist()
    np.testing.assert_allclose(theirs["probs"].to_numpy(), ours["probs"].to_numpy(), atol=1e-6)


def test_an_exported_model_needs_nothing_but_torch(trained, exported, tmp_path):
    folder, text, path = trained
    spawn(predict, 1, text, path, str(folder / "eval.parquet"), tmp_path / "scores")
    # Row 0 by hand, from the signature's order of inputs: only torch may be imported.
    program = f"""
import json, sys
import torch
model = torch.jit.load({str(exported / "scripted_model.pt")!r})
row = json.loads(sys.stdin.read())
ids = [row["inputs"][s["name"]] for s in row["signature"]["sparse"]]
values = torch.tensor([i for bag in ids for i, _ in bag], dtype=torch.int64)
weights = torch.tensor([w for bag in ids for _, w in bag])
lengths = torch.tensor([len(bag) for bag in ids])
print(float(model(torch.tensor([[row["price"]]]), values, lengths, weights)["probs"]))
"""
    import xxhash

    raw = pq.read_table(folder / "eval.parquet").slice(0, 1).to_pylist()[0]
    history = [pair.split(":") for pair in raw["history"].split("\x1d")]
    row = {
        "signature": json.loads((exported / "signature.json").read_text()),
        "price": raw["price"],
        "inputs": {
            "user": [(raw["user_id"], 1.0)],
            "item": [(xxhash.xxh64_intdigest(raw["item"].encode()) % 500, 1.0)],
            "tags": [(tag, 1.0) for tag in raw["tags"]],
            "history": [(int(i), float(weight)) for i, weight in history],
        },
    }
    printed = run_without({"tzrec_core", *BEYOND_SERVING}, program, input=json.dumps(row))

    expected = pq.read_table(tmp_path / "scores")["probs"][0].as_py()
    assert float(printed) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("damage", [0.1, float("nan")])
def test_a_model_that_scores_otherwise_is_not_published(trained, tmp_path, monkeypatch, damage):
    _, text, path = trained
    save = exporter.save_scripted

    def damage_and_save(model, target):
        with torch.no_grad():
            model.deep[0].table.weight[0] += damage
        save(model, target)

    # The damaged copy must not share its tables with the model that it is compared with.
    build = exporter.serving_model
    monkeypatch.setattr(exporter, "serving_model", lambda *args: _copy(build(*args)))
    monkeypatch.setattr(exporter, "save_scripted", damage_and_save)

    with pytest.raises(ValueError, match=r"outputs differ .* nothing was published"):
        export(text, path, tmp_path / "export")

    assert list(tmp_path.iterdir()) == []


def _copy(model):
    import copy

    return copy.deepcopy(model)


def test_an_export_directory_is_not_overwritten(trained, exported):
    _, text, path = trained

    with pytest.raises(ValueError, match=r"export_dir .* exists"):
        export(text, path, exported)


def test_a_moved_export_scores_as_before_though_the_vocabulary_has_changed(tmp_path):
    vocabulary = tmp_path / "users.txt"
    vocabulary.write_text("".join(f"{user}\n" for user in range(0, clicks.NUM_USERS, 2)))
    by_number, by_line = f"num_buckets: {clicks.NUM_USERS}", f'vocab_file: "{vocabulary}"'
    text = clicks.write(tmp_path, train_rows=64 * 4).replace(by_number, by_line)
    rows = str(tmp_path / "eval.parquet")
    spawn(train, 1, text)
    path = checkpoint.latest(tmp_path / "model")
    predict(text, path, rows, tmp_path / "expected")

    export(text, path, tmp_path / "export")
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "export").rename(tmp_path / "elsewhere" / "moved")
    vocabulary.write_text("".join(f"{user}\n" for user in range(1, clicks.NUM_USERS, 2)))
    predict_scripted(moved, rows, tmp_path / "out", ["row"], ["probs"])

    expected, found = pq.read_table(tmp_path / "expected"), pq.read_table(tmp_path / "out")
    np.testing.assert_allclose(found["probs"].to_numpy(), expected["probs"].to_numpy(), atol=1e-6)
    assert [file.name for file in (moved / "assets").iterdir()] == ["user.vocab"]
    assert str(tmp_path / "users") not in (moved / "pipeline.config").read_text()
    vocabulary.unlink()
    with pytest.raises(ValueError, match=r"asset file .*users\.txt does not exist"):
        export(text, path, tmp_path / "none")


def test_asset_files_are_copied_and_nothing_is_written_if_one_cannot_be(trained, tmp_path):
    _, text, path = trained
    one, other = tmp_path / "a" / "map.json", tmp_path / "b" / "map.json"
    for file in (one, other):
        file.parent.mkdir()
        file.write_text(f"{file}")
    place = tmp_path / "exports"

    with pytest.raises(ValueError, match=r"asset file .*nope\.json does not exist"):
        export(text, path, place / "export", [one, tmp_path / "nope.json"])
    with pytest.raises(ValueError, match=r"a/map\.json and .*b/map\.json would both be"):
        export(text, path, place / "export", [one, other])
    assert not place.exists()

    export(text, path, place / "export", [one])
    assert (place / "export" / "assets" / "map.json").read_text() == str(one)


def test_scores_are_not_mixed_with_those_of_another_run(trained, exported, tmp_path):
    folder, text, path = trained
    rows, output = str(folder / "eval.parquet"), tmp_path / "out"
    output.mkdir()
    (output / "part-00007.parquet").write_bytes(b"of another run")

    with pytest.raises(ValueError, match=r"out has scores already \(part-00007\.parquet\)"):
        predict_scripted(exported, rows, output, [], [])
    with pytest.raises(ValueError, match=r"out has scores already \(part-00007\.parquet\)"):
        predict(text, path, rows, output)

    assert [file.name for file in output.iterdir()] == ["part-00007.parquet"]


def test_a_rank_that_fails_keeps_the_scores_of_all_ranks_from_view(trained, exported, tmp_path):
    folder, _, _ = trained
    good = pq.read_table(folder / "eval.parquet")
    many = pa.concat_tables([good] * 40)
    prices = good["price"].cast(pa.string()).to_pylist()
    (tmp_path / "rows").mkdir()
    # Parts are dealt in turn: rank 0 soon has no more, rank 1 meets its mistake late.
    for name, table, price in [
        ("0", good, prices),
        ("1", many, prices * 40),
        ("2", good, prices),
        ("3", good, ["dear", *prices[1:]]),
    ]:
        index = table.schema.get_field_index("price")
        with_text = table.set_column(index, "price", pa.array(price))
        pq.write_table(with_text, tmp_path / "rows" / f"{name}.parquet")
    output = tmp_path / "out"

    with pytest.raises(RankError, match="dear"):
        spawn(predict_scripted, 2, exported, str(tmp_path / "rows"), output, [], [])

    assert not list(output.glob("part-*"))


def test_columns_that_are_not_there_are_named(trained, exported, tmp_path):
    folder, _, _ = trained
    rows = str(folder / "eval.parquet")

    with pytest.raises(ValueError, match="reserved column 'nope' is not in"):
        predict_scripted(exported, rows, tmp_path / "out", ["nope"], [])
    with pytest.raises(ValueError, match="output column 'nope' is not one of logits, probs"):
        predict_scripted(exported, rows, tmp_path / "out", [], ["nope"])

    assert not list(Path(tmp_path).rglob("*.parquet*"))


@pytest.mark.parametrize("precision", ["FP16", "INT8"])
def test_what_a_lower_precision_costs_is_measured_on_all_evaluation_rows(
    trained, tmp_path, precision
):
    folder, text, path = trained
    lower = f'export_config {{ embedding_precision: "{precision}" }}'
    rows = str(folder / "eval.parquet")
    spawn(export, 1, text + lower, path, tmp_path / "export")
    spawn(predict, 1, text, path, rows, tmp_path / "checkpoint")
    keep = ["row", "click", "user_id"]
    spawn(predict_scripted, 1, tmp_path / "export", rows, tmp_path / "served", keep, [])
    spawn(evaluate, 1, text, path, tmp_path / "eval_result.txt")

    ours, theirs = (pq.read_table(tmp_path / name).to_pandas() for name in ("served", "checkpoint"))
    record = json.loads((tmp_path / "export" / "export.json").read_text())
    accuracy = record["accuracy"]
    assert accuracy["rows"] == len(ours) == 301
    for output in ("probs", "logits"):
        change = (ours[output] - theirs[output]).abs()
        measured = accuracy["outputs"][output]
        assert measured["largest_difference"] == pytest.approx(change.max(), rel=1e-3)
        assert measured["mean_difference"] == pytest.approx(change.mean(), rel=1e-3)
        assert change.max() > 0
    before = json.loads((tmp_path / "eval_result.txt").read_text())
    for name, metric in accuracy["metrics"].items():
        assert metric["fp32"] == pytest.approx(before[name], abs=1e-6)
    served = accuracy["metrics"]["auc"]["served"]
    assert served == pytest.approx(roc_auc_score(ours["click"], ours["probs"]), abs=1e-6)
    assert record["largest_difference"] < 1e-6  # from the checkpoint in the same precision
    assert record["table_bytes"] < record["table_bytes_fp32"]
    assert "What " + precision + " costs" in (tmp_path / "export" / "model_card.md").read_text()


def test_an_export_says_what_it_is_and_how_fast(exported):
    record = json.loads((exported / "export.json").read_text())

    assert record["bytes"] == (exported / "scripted_model.pt").stat().st_size
    assert record["accuracy"] is None
    assert [of["batch_size"] for of in record["latency"]["batches"]] == [1, 64, 1024]
    assert {file.name for file in exported.iterdir()} == {
        "scripted_model.pt", "signature.json", "features.json", "pipeline.config",
        "export.json", "model_card.md",
    }  # fmt: skip


def test_a_table_that_its_precision_cannot_hold_is_named(trained, tmp_path, monkeypatch):
    _, text, path = trained
    unsharded = exporter.unsharded

    def enlarged(*args, **flags):
        model = unsharded(*args, **flags)
        with torch.no_grad():
            dict(model.named_parameters())[
                "model.embeddings.deep.embedding_bags.item_emb.weight"
            ].mul_(1e9)
        return model

    monkeypatch.setattr(exporter, "unsharded", enlarged)
    lower = 'export_config { embedding_precision: "FP16" }'

    with pytest.raises(ValueError, match="table 'item_emb' cannot be exported in FP16: float16"):
        export(text + lower, path, tmp_path / "export")
    assert list(tmp_path.iterdir()) == []
