"""Reads, checks, changes and writes configs: protobuf text or JSON, told apart by their content.

Entry points run ``load``, then set what their flags say, then ``edit``, then ``check``.
"""

import json
import logging
import os
from pathlib import Path

from google.protobuf import text_format

from tzrec_core.config_check import check
from tzrec_core.config_edit import edit, edits_from_json
from tzrec_core.config_fields import FieldError, planned_fields
from tzrec_core.config_text import Survey, survey, tokens
from tzrec_core.config_value import explain, fill
from tzrec_core.protos import data_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

__all__ = ["check", "dumps", "edit", "edits_from_json", "load", "loads", "save"]

logger = logging.getLogger(__name__)


def load(path: str | os.PathLike[str]) -> EasyRecConfig:
    """Reads a config file.

    Raises:
        ValueError: no such file, not a config, or fields that are wrong or not supported; names the
            file, the line and the field's path.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: the config cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        text = "\0"
    return loads(text, source=str(path))


def loads(text: str, *, source: str) -> EasyRecConfig:
    """Reads a config from its text; ``source`` is what messages call it.

    Raises:
        ValueError: as :func:`load`.
    """
    config = EasyRecConfig()
    is_json = _is_json(text, source)
    found = survey(text, config.DESCRIPTOR)
    if found.unknown:
        raise ValueError("\n".join(f"{source}:{line}: {why}" for line, why in found.unknown))
    if is_json:
        _merge_json(text, config, found, source)
    else:
        _merge_text(text, config, found, source)
    planned = [f"{_at(source, found, path)}: {path}" for path in planned_fields(config)]
    if planned:
        raise ValueError("\n".join(f"{where} is not supported yet" for where in planned))
    _translate_fg_encoded(config, found, source)
    return config


def dumps(config: EasyRecConfig) -> str:
    """Writes a config as protobuf text; ``loads`` gives the same config back."""
    return str(text_format.MessageToString(config, as_utf8=True))


def save(config: EasyRecConfig, path: str | os.PathLike[str]) -> None:
    """Writes a config as protobuf text: aside, then renamed, so that no reader sees half of it."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(dumps(config), encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _is_json(text: str, source: str) -> bool:
    """Tells JSON from protobuf text.

    Raises:
        ValueError: it is neither, or empty.
    """
    start = [] if "\0" in text else tokens(text)[:2]
    if not start and "\0" not in text:
        raise ValueError(f"{source}: the config is empty")
    if start and start[0].text == "{":
        return True
    if len(start) == 2 and start[0].kind == "word" and start[1].text in (":", "{", "<"):
        return False
    raise ValueError(f"{source}: not a config; must be protobuf text or JSON")


def _merge_text(text: str, config: EasyRecConfig, found: Survey, source: str) -> None:
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        line, column = error.GetLine() or 1, error.GetColumn() or 1
        path = found.path_at(line, column)
        raise ValueError(f"{source}:{line}: {path} cannot be read: {explain(error)}") from None


def _merge_json(text: str, config: EasyRecConfig, found: Survey, source: str) -> None:
    try:
        fill(config, json.loads(text, object_pairs_hook=_unique), "")
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}:{error.lineno}: not valid JSON: {error.msg}") from None
    except FieldError as error:
        raise ValueError(f"{_at(source, found, error.path)}: {error}") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise FieldError(twice, "is set twice in one JSON object")
    return dict(pairs)


def _at(source: str, found: Survey, path: str) -> str:
    line = found.line_of(path)
    return f"{source}:{line}" if line is not None else source


def _translate_fg_encoded(config: EasyRecConfig, found: Survey, source: str) -> None:
    """Turns ``fg_encoded``, which older TorchEasyRec configs have, into ``fg_mode``."""
    data = config.data_config
    if not data.HasField("fg_encoded"):
        return
    where = _at(source, found, "data_config.fg_encoded")
    fg_mode = data_pb2.FG_NONE if data.fg_encoded else data_pb2.FG_NORMAL
    if data.HasField("fg_mode") and (data.fg_mode == data_pb2.FG_NONE) != data.fg_encoded:
        raise ValueError(
            f"{where}: data_config.fg_encoded contradicts fg_mode"
            f" {data_pb2.FgMode.Name(data.fg_mode)}; leave it out"
        )
    if not data.HasField("fg_mode"):
        data.fg_mode = fg_mode
    data.ClearField("fg_encoded")
    name = data_pb2.FgMode.Name(data.fg_mode)
    logger.warning("%s: data_config.fg_encoded is old; read as fg_mode: %s", where, name)
