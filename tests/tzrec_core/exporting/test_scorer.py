import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.programs import BEYOND_SERVING, run_without
from tests.tzrec_core import clicks
from tests.tzrec_core.exporting.test_exporter import export, predict, train
from tzrec_core.checkpoints import checkpoint
from tzrec_core.exporting.scorer import Scorer


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with data, an export, and the scores of its checkpoint for ``eval.parquet``."""
    folder = tmp_path_factory.mktemp("scored")
    text = clicks.write(folder, train_rows=64 * 4)
    train(text)
    path = checkpoint.latest(folder / "model")
    export(text, path, folder / "export")
    predict(text, path, str(folder / "eval.parquet"), folder / "scores")
    return folder


def test_raw_rows_get_the_scores_of_the_checkpoint_without_torchrec(exported):
    program = f"""
import json
from pathlib import Path
import pyarrow.parquet as pq
from tzrec_core.exporting.scorer import Scorer
folder = Path({str(exported)!r})
scores = Scorer(folder / "export").score(pq.read_table(folder / "eval.parquet"))
print(json.dumps(scores["probs"].tolist()))
"""
    printed = run_without(BEYOND_SERVING, program)

    expected = pq.read_table(exported / "scores")["probs"].to_numpy()
    np.testing.assert_allclose(json.loads(printed), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_row_has_the_same_score_in_any_batch(exported):
    rows = pq.read_table(exported / "eval.parquet").slice(0, 20)
    scorer = Scorer(exported / "export")

    together = scorer.score(rows)["probs"].numpy()
    alone = [scorer.score(rows.slice(i, 1))["probs"].item() for i in range(20)]

    np.testing.assert_allclose(alone, together, atol=1e-6)
    assert scorer.score(rows.slice(0, 0))["probs"].shape == (0,)


def test_a_column_that_is_missing_is_named(exported):
    rows = pq.read_table(exported / "eval.parquet")
    scorer = Scorer(exported / "export")

    with pytest.raises(ValueError, match="column 'item', needed as feature 'item'"):
        scorer.score(rows.drop_columns(["item"]))
    price = rows.schema.get_field_index("price")
    dear = rows.set_column(price, "price", pa.array(["dear"] * len(rows)))
    with pytest.raises(ValueError, match="feature 'price'"):
        scorer.score(dear)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("precision", ["FP32", "FP16", "INT8"])
def test_a_gpu_gives_the_scores_of_the_cpu(exported, tmp_path, precision):
    text = (exported / "export" / "pipeline.config").read_text()
    lower = f'export_config {{ embedding_precision: "{precision}" }}'
    path = checkpoint.latest(exported / "model")
    export(text + lower, path, tmp_path / "export")
    rows = pq.read_table(exported / "eval.parquet")

    on_cpu, on_gpu = (Scorer(tmp_path / "export", device=device) for device in ("cpu", "cuda"))

    expected = on_cpu.score(rows)["probs"].numpy()
    np.testing.assert_allclose(on_gpu.score(rows)["probs"].numpy(), expected, atol=1e-5)
