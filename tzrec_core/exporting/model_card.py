"""The model card: what a model was made of, how good it is and where that ends, as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_MAX_CURVE_ROWS = 20
_ALIGNED_RIGHT = "--:"
_LIMITS = (
    "Metrics hold for rows like the evaluation rows. Rows of another time, place or traffic may "
    "differ.",
    "An interval says what other evaluation rows would give, not what another training would.",
    "Not examined: differences between groups of people other than slices shown here, and what "
    "comes of a model that decides which rows there will be.",
)


@dataclass(frozen=True)
class Evidence:
    """What is known of a model beyond its files; all of it is optional.

    Attributes:
        title: What the model is called.
        data: What the rows were, such as their numbers and a fingerprint.
        evaluation: Of this checkpoint: ``metrics`` by name, with ``value`` and perhaps ``low``,
            ``high``, ``group_coverage`` and ``row_coverage``; perhaps the ``confidence_level`` of
            those intervals; and ``slices``, a list of mappings with ``column``, ``slice``, ``rows``
            and ``metrics`` of the same form.
        curve: Of every evaluation ``global_step`` and metrics.
    """

    title: str = "Model"
    data: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    curve: Sequence[Mapping[str, Any]] = ()


def model_card(
    evidence: Evidence,
    *,
    model: str,
    record: Mapping[str, Any],
    features: Mapping[str, Any],
    versions: Mapping[str, str],
) -> str:
    """Returns the card.

    Args:
        evidence: What it says of data and metrics.
        model: What kind of model it is.
        record: Content of ``export.json``.
        features: Content of ``features.json``.
        versions: Of the packages that made the model.
    """
    sections = [
        f"# {evidence.title}, step {record['global_step']}\n\n"
        f"A `{model}` with {len(features['sparse'])} sparse and {len(features['dense'])} dense "
        "features.",
        _section("Data", _table(("what", "value"), evidence.data.items())),
        _section("Metrics", _metrics(evidence.evaluation)),
        _section("Slices", _slices(evidence.evaluation.get("slices", ()))),
        _section("Training", _curve(evidence.curve)),
        _section("Served model", _served(record)),
        _section("Features", _features(features)),
        _section("Versions", _table(("package", "version"), versions.items())),
        _section("Limits", [f"- {limit}" for limit in (*_LIMITS, *_limits(record, features))]),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _section(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(lines) if lines else ""


def _metrics(evaluation: Mapping[str, Any]) -> list[str]:
    rows = [
        (name, metric["value"], _interval(metric), *(_share(metric.get(c)) for c in _COVERAGES))
        for name, metric in evaluation.get("metrics", {}).items()
    ]
    level = evaluation.get("confidence_level")
    interval = "interval" if level is None else f"{level:.0%} interval"
    return _table(("metric", "value", interval, "groups used", "rows used"), rows)


_COVERAGES = ("group_coverage", "row_coverage")


def _slices(slices: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for part in slices for name in part["metrics"]))
    rows = [
        (part["column"], part["slice"], part["rows"], *(_short(part, name) for name in names))
        for part in slices
    ]
    return _table(("column", "slice", "rows", *names), rows)


def _short(part: Mapping[str, Any], name: str) -> str:
    metric = part["metrics"].get(name)
    if metric is None:
        return ""
    interval = _interval(metric)
    return f"{_text(metric['value'])} ({interval})" if interval else _text(metric["value"])


def _interval(metric: Mapping[str, Any]) -> str:
    low, high = metric.get("low"), metric.get("high")
    return "" if low is None or high is None else f"{_text(low)} to {_text(high)}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _curve(curve: Sequence[Mapping[str, Any]]) -> list[str]:
    seen = dict.fromkeys(name for point in curve for name in point)
    names = [name for name in seen if name != "global_step" and not name.endswith(_COVERAGES)]
    stride = -(-len(curve) // _MAX_CURVE_ROWS) or 1
    shown = [*curve[:-1:stride], *curve[-1:]]  # whatever is left out, the last one is there
    rows = [(point["global_step"], *(point.get(name) for name in names)) for point in shown]
    return _table(("step", *names), rows)


def _served(record: Mapping[str, Any]) -> list[str]:
    precision, latency = record["embedding_precision"], record["latency"]
    lower = precision != "FP32"
    lines = [
        f"TorchScript, {_size(record['bytes'])}; embedding tables in {precision}, "
        f"{_size(record['table_bytes'])}"
        + (f" instead of {_size(record['table_bytes_fp32'])} in FP32. " if lower else ". ")
        + f"Its outputs differ from the checkpoint's by at most {record['largest_difference']:.1e}"
        + (" beyond that precision." if lower else "."),
        "",
        f"SHA-256 `{record['sha256']}`",
        "",
        f"Time of a call on a CPU (threads: {latency['threads']}), without encoding and network:",
        "",
        *_table(
            ("rows", "p50 ms", "p99 ms", "calls"),
            [
                (of["batch_size"], f"{of['p50_ms']:.3g}", f"{of['p99_ms']:.3g}", of["calls"])
                for of in latency["batches"]
            ],
        ),
    ]
    if record.get("accuracy"):
        lines += ["", *_accuracy(record["accuracy"], precision)]
    return lines


def _accuracy(accuracy: Mapping[str, Any], precision: str) -> list[str]:
    """Returns what the precision of tables costs."""
    return [
        f"What {precision} costs, on {accuracy['rows']} rows:",
        "",
        *_table(
            ("metric", "FP32", precision),
            [(name, of["fp32"], of["served"]) for name, of in accuracy["metrics"].items()],
        ),
        "",
        *_table(
            ("output", "largest difference", "mean difference"),
            [
                (name, of["largest_difference"], of["mean_difference"])
                for name, of in accuracy["outputs"].items()
            ],
        ),
    ]


def _features(features: Mapping[str, Any]) -> list[str]:
    rows = []
    for feature in (*features["dense"], *features["sparse"]):
        table = feature.get("table")
        size = f"{table['name']}, {table['rows']} x {table['dim']}" if table else ""
        rows.append((feature["name"], feature["column"], feature["kind"], size))
    return _table(("feature", "column", "kind", "table"), rows)


def _limits(record: Mapping[str, Any], features: Mapping[str, Any]) -> Iterator[str]:
    hashed = [
        f"{feature['name']} ({feature['ids']['buckets']} buckets)"
        for feature in features["sparse"]
        if feature.get("ids", {}).get("method") == "xxh64"
    ]
    if hashed:
        yield f"Different values may share an embedding, as they are hashed: {', '.join(hashed)}."
    yield (
        "Latency was measured on the machine that exported the model, in one process that did "
        "nothing else."
    )
    if record["embedding_precision"] != "FP32":
        yield "The metrics above are the checkpoint's, in FP32, except where they say otherwise."


def _table(head: Sequence[str], rows: Any) -> list[str]:
    """Returns a Markdown table without the columns that have no content; nothing for no rows.

    Columns of numbers are aligned on the right.
    """
    cells = [[_text(cell) for cell in row] for row in rows]
    if not cells:
        return []
    kept = [i for i in range(len(head)) if any(row[i] for row in cells)]
    columns = [[row[i] for row in cells] for i in kept]
    lines = [
        [head[i] for i in kept],
        [_ALIGNED_RIGHT if all(map(_is_number, column)) else "---" for column in columns],
        *[[row[i] for i in kept] for row in cells],
    ]
    return [f"| {' | '.join(line)} |" for line in lines]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _is_number(cell: str) -> bool:
    return cell[:1] in "-0123456789"  # an empty one too


def _size(num_bytes: int) -> str:
    """Returns 812 B, 3.4 MB, 12 GB."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
