"""Files that an export carries along: its vocabularies, and whatever else should lie beside it."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from tzrec_core.protos.feature_pb2 import IdFeature
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

FOLDER = "assets"


def plan(config: EasyRecConfig, files: Sequence[Path]) -> dict[str, Path]:
    """Returns the files to carry along, by the path that they get below the export directory.

    Args:
        config: Its ``vocab_file``s are carried along, each under the name of its feature.
        files: More files, each under its own name.

    Raises:
        ValueError: A file is not there, or two would have the same name.
    """
    carried = {_place(feature): Path(feature.vocab_file) for feature in _features(config)}
    for file in files:
        place = f"{FOLDER}/{file.name}"
        if place in carried:
            raise ValueError(f"asset files {carried[place]} and {file} would both be {place}")
        carried[place] = file
    for file in carried.values():
        if not file.is_file():
            raise ValueError(f"asset file {file} does not exist or is not a file")
    return carried


def publish(config: EasyRecConfig, carried: dict[str, Path], export_dir: Path) -> EasyRecConfig:
    """Copies the files of ``plan`` below ``export_dir``; returns the config that names the copies.

    Its paths are relative to ``export_dir``, so that the directory can be moved.
    """
    for place, source in carried.items():
        target = export_dir / place
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)
    published = EasyRecConfig()
    published.CopyFrom(config)
    for feature in _features(published):
        feature.vocab_file = _place(feature)
    return published


def resolve(config: EasyRecConfig, export_dir: Path) -> None:
    """Makes the relative paths of a config that ``publish`` returned absolute.

    Any other config's relative paths are relative to the working directory.
    """
    for feature in _features(config):
        feature.vocab_file = str(export_dir.absolute() / feature.vocab_file)


def _features(config: EasyRecConfig) -> Iterator[IdFeature]:
    for feature in config.feature_configs:
        if feature.id_feature.vocab_file:
            yield feature.id_feature


def _place(feature: IdFeature) -> str:
    # A name may hold a slash, which must not make it a path.
    return f"{FOLDER}/{quote(feature.feature_name, safe='')}.vocab"
