from tzrec_core.exporting.model_card import Evidence, model_card

RECORD = {
    "global_step": 200,
    "embedding_precision": "FP32",
    "bytes": 2_345_678,
    "sha256": "abc",
    "table_bytes": 2_000_000,
    "table_bytes_fp32": 2_000_000,
    "largest_difference": 1.25e-7,
    "accuracy": None,
    "latency": {
        "threads": 2,
        "batches": [{"batch_size": 64, "calls": 500, "p50_ms": 0.51234, "p99_ms": 1.5}],
    },
}
TABLE = {"name": "city_emb", "rows": 100, "dim": 4, "pooling": "sum"}
CITY = {
    "name": "city",
    "column": "user_city",
    "kind": "ids",
    "ids": {"method": "xxh64", "buckets": 100},
    "table": TABLE,
}
FEATURES = {"dense": [{"name": "age", "column": "age", "kind": "numbers"}], "sparse": [CITY]}
EVIDENCE = Evidence(
    title="clicks",
    data={"train rows": 900, "fingerprint": "f00"},
    evaluation={
        "global_step": 200,
        "confidence_level": 0.95,
        "metrics": {
            "auc": {"value": 0.75, "low": 0.7, "high": 0.8},
            "grouped_auc": {"value": 0.5, "low": None, "high": None, "group_coverage": 0.9},
        },
        "slices": [
            {"column": "city", "slice": "a|b", "rows": 5, "metrics": {"auc": {"value": 0.6}}},
            {
                "column": "city",
                "slice": "c",
                "rows": 4000,
                "metrics": {"auc": {"value": 0.7, "low": 0.65, "high": 0.75}},
            },
        ],
    },
    curve=[
        {"global_step": 100, "auc": 0.7, "grouped_auc_row_coverage": 0.5},
        {"global_step": 200, "auc": 0.75, "loss": 0.00001234},
    ],
)


def card(evidence=EVIDENCE, **changes):
    return model_card(
        evidence,
        model="deepfm",
        record={**RECORD, **changes},
        features=FEATURES,
        versions={"torch": "2.13.0"},
    )


def lines_of(text, section):
    return text.partition(f"## {section}\n\n")[2].partition("\n\n## ")[0].splitlines()


def test_a_card_has_everything_that_is_known():
    text = card()

    assert text.startswith("# clicks, step 200\n\nA `deepfm` with 1 sparse and 1 dense features.")
    assert lines_of(text, "Data")[2:] == ["| train rows | 900 |", "| fingerprint | f00 |"]
    assert lines_of(text, "Metrics") == [
        "| metric | value | 95% interval | groups used |",
        "| --- | --: | --: | --: |",
        "| auc | 0.7500 | 0.7000 to 0.8000 |  |",
        "| grouped_auc | 0.5000 |  | 90.0% |",
    ]
    assert lines_of(text, "Slices")[2:] == [
        "| city | a\\|b | 5 | 0.6000 |", "| city | c | 4,000 | 0.7000 (0.6500 to 0.7500) |",
    ]  # fmt: skip
    assert lines_of(text, "Training") == [
        "| step | auc | loss |",
        "| --: | --: | --: |",
        "| 100 | 0.7000 |  |",
        "| 200 | 0.7500 | 1.234e-05 |",
    ]
    assert "| 64 | 0.512 | 1.5 | 500 |" in lines_of(text, "Served model")
    assert "2.35 MB" in text
    assert "| city | user_city | ids | city_emb, 100 x 4 |" in lines_of(text, "Features")
    assert "| torch | 2.13.0 |" in lines_of(text, "Versions")
    assert "city (100 buckets)" in text


def test_what_is_not_known_has_no_section():
    sections = [line for line in card(Evidence()).splitlines() if line.startswith("## ")]

    assert sections == ["## Served model", "## Features", "## Versions", "## Limits"]


def test_a_lower_precision_shows_what_it_costs():
    accuracy = {
        "rows": 300,
        "outputs": {"probs": {"largest_difference": 0.002, "mean_difference": 0.0001}},
        "metrics": {"auc": {"fp32": 0.75, "served": 0.7499}, "grouped_auc": {"fp32": None}},
    }
    accuracy["metrics"]["grouped_auc"]["served"] = None

    lines = lines_of(card(embedding_precision="INT8", accuracy=accuracy), "Served model")

    assert "| auc | 0.7500 | 0.7499 |" in lines
    assert "| probs | 0.0020 | 0.0001 |" in lines
    assert "INT8" in lines[0]


def test_only_a_card_of_a_lower_precision_compares_with_the_full_one():
    lower, full = card(embedding_precision="INT8", table_bytes=1010), card()

    assert "embedding tables in INT8, 1.01 kB instead of 2 MB in FP32." in lower
    assert "The metrics above are the checkpoint's, in FP32" in lower
    assert "embedding tables in FP32, 2 MB." in full
    assert "instead of" not in full
    assert "The metrics above" not in full


def test_only_hashed_features_are_said_to_share_embeddings():
    listed = {**CITY, "name": "country", "ids": {"method": "vocabulary", "size": 3}}
    features = {**FEATURES, "sparse": [CITY, listed]}
    text = model_card(EVIDENCE, model="dlrm", record=RECORD, features=features, versions={})

    assert "as they are hashed: city (100 buckets)." in text


def test_numbers_are_short_whatever_their_size_and_sign():
    values = {"a": -0.5, "b": -0.000123456, "c": 123456.789, "d": 0.0, "e": 1_234_567}

    assert lines_of(card(Evidence(data=values)), "Data")[1:] == [
        "| --- | --: |",
        "| a | -0.5000 |",
        "| b | -0.0001235 |",
        "| c | 1.235e+05 |",
        "| d | 0.0000 |",
        "| e | 1,234,567 |",
    ]


def test_a_long_curve_is_thinned_and_keeps_its_last_point():
    for number in (19, 20, 21, 100, 1001):
        curve = [{"global_step": step, "auc": 0.5} for step in range(1, number + 1)]

        rows = lines_of(card(Evidence(curve=curve)), "Training")[2:]

        assert len(rows) <= 21
        assert rows[0].startswith("| 1 ")
        assert rows[-1].startswith(f"| {number:,} ")
        assert len(set(rows)) == len(rows)
