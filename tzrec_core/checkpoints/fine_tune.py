"""A new training from the weights of another model: what fits is restored, the rest is named."""

import difflib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from tzrec_core.checkpoints import tensor_files
from tzrec_core.checkpoints.checkpoint import check_files
from tzrec_core.checkpoints.restoring import check_plan, shapes_of, shapes_on_all_ranks
from tzrec_core.checkpoints.tensor_files import Shapes
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.optim.state import create_state, initial_state, named_state, put_back

log = logging.getLogger(__name__)


@dataclass
class Matches:
    """Which of our tensors a checkpoint has.

    Attributes:
        restored: Name in the checkpoint by our name.
        left: Why it has no value for a tensor of ours, by our name.
        unused: Names in the checkpoint that are nobody's value.
    """

    restored: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def read_param_map(path: Path) -> dict[str, str]:
    """Returns the name in the checkpoint by the name in the model.

    Each line of the file is ``name in this model<TAB>name in the checkpoint``; empty lines are
    skipped.

    Raises:
        ValueError: The file cannot be read, a line is not of this form, or a name of this model
            occurs twice.
    """
    names: dict[str, str] = {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"fine_tune_ckpt_param_map {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        new, _, old = (part.strip() for part in line.partition("\t"))
        if not new or not old or "\t" in old:
            raise ValueError(
                f"{path}, line {number}: must be the name in this model, a tab, and the name in "
                f"the checkpoint, got {line!r}"
            )
        if new in names:
            raise ValueError(f"{path}, line {number}: {new} was mapped before")
        names[new] = old
    return names


def fine_tune(
    path: Path,
    ranks: Ranks,
    *,
    model: DistributedModelParallel,
    optimizer: CombinedOptimizer | None,
    param_map: Mapping[str, str],
    left_aside: Mapping[str, str],
) -> Matches:
    """Loads what fits of another model's checkpoint; call it on every rank.

    A tensor is restored if the checkpoint has one of its name, or of the name that ``param_map``
    gives, and of its shape; never in part. All others keep their initial values. A parameter's
    optimizer state is restored if the parameter is and all its state fits. What was restored, what
    was not and why is logged on rank 0.

    Args:
        path: The checkpoint's folder.
        ranks: From ``distributed.ranks.process_group``.
        model: From ``distributed.sharding.shard``.
        optimizer: From ``optim.build.build_optimizer``; None leaves the saved state aside.
        param_map: Name in the checkpoint by the name in the model, for those that differ.
        left_aside: Parts of the optimizer whose saved state is not ours, and why.

    Returns:
        What became of the model's tensors.

    Raises:
        ValueError: The checkpoint is damaged, ``param_map`` names what there is not, or nothing at
            all fits; on every rank, before anything is loaded.
    """
    check_files(path, ranks)
    saved = tensor_files.shapes(path / "model")
    weights = model.state_dict()  # shares memory with the model, as the optimizer's state does
    _check_map(path, param_map, shapes_of(weights), saved)
    matches = match_tensors(shapes_of(weights), saved, param_map)
    if not matches.restored:
        raise ValueError(
            f"fine_tune_checkpoint {path} has nothing for this model: {_listed(matches.left)}"
        )
    of_optimizer = None
    if optimizer is not None:
        of_optimizer = _fill_optimizer(path, ranks, model, optimizer, matches, saved, left_aside)
    _read(path / "model", weights, matches.restored, ranks)
    if ranks.rank == 0:
        log.info("%s", describe(path, matches, of_optimizer, shapes_of(weights), saved))
    return matches


def match_tensors(ours: Shapes, saved: Shapes, param_map: Mapping[str, str]) -> Matches:
    """Returns which of our tensors a checkpoint has under the same or the mapped name."""
    matches = Matches()
    for name, shape in ours.items():
        old = param_map.get(name, name)
        of_old = "" if old == name else f" {old}"
        if old not in saved:
            matches.left[name] = f"the checkpoint has no{of_old or ' such tensor'}"
        elif saved[old] != shape:
            matches.left[name] = f"the checkpoint's{of_old} is {list(saved[old])}"
        else:
            matches.restored[name] = old
    used = set(matches.restored.values())
    matches.unused = [name for name in saved if name not in used]
    return matches


def match_state(
    ours: Shapes,
    saved: Shapes,
    weights: Matches,
    saved_weights: Shapes,
    left_aside: Mapping[str, str],
) -> Matches:
    """Returns which of our optimizer's state tensors a checkpoint has, all or none of a parameter.

    Names are ``<part>.<parameter>.<name of the state>``, where a table's state begins with the name
    of the table. Parts may differ, but for those that are left aside. ``left`` is by parameter.
    """
    of_saved = _by_parameter(saved, saved_weights)
    matches = Matches()
    for name, states in _by_parameter(ours, [*weights.restored, *weights.left]).items():
        old = weights.restored.get(name)
        theirs = {} if old is None else of_saved.get(old, {})
        differing = [
            state
            for state in sorted(states.keys() | theirs.keys())
            if state not in states
            or state not in theirs
            or ours[states[state]] != saved[theirs[state]]
        ]
        part = next(iter(states.values())).partition(".")[0]
        if part in left_aside:
            matches.left[name] = left_aside[part]
        elif old is None:
            matches.left[name] = "the parameter itself was not restored"
        elif not theirs:
            matches.left[name] = "the checkpoint has no state of it"
        elif differing:
            matches.left[name] = f"another optimizer's: {', '.join(differing)} differ"
        else:
            matches.restored.update({states[state]: theirs[state] for state in states})
    return matches


def describe(
    path: Path, weights: Matches, state: Matches | None, ours: Shapes, saved: Shapes
) -> str:
    """Returns what the log says of a fine-tuning: counts first, then every exception by name."""
    lines = [
        f"Fine-tuning from {path}: {len(weights.restored)} of {len(ours)} tensors restored",
        *_block(
            "keep their initial values",
            [f"{name} {list(ours[name])}: {why}" for name, why in sorted(weights.left.items())],
        ),
        *_block("not used", [f"{name} {list(saved[name])}" for name in sorted(weights.unused)]),
        *_block(
            "restored from another name",
            [f"{new} from {old}" for new, old in weights.restored.items() if new != old],
        ),
    ]
    if state is None:
        lines.append("  optimizer state: left aside")
    else:
        lines.append(f"  optimizer state: {len(state.restored)} tensors restored")
        reasons: dict[str, list[str]] = {}
        for name, why in state.left.items():
            reasons.setdefault(why, []).append(name)
        for why, names in reasons.items():
            lines += _block(f"start anew ({why})", sorted(names))
    return "\n".join(lines)


def _fill_optimizer(
    path: Path,
    ranks: Ranks,
    model: DistributedModelParallel,
    optimizer: CombinedOptimizer,
    weights: Matches,
    saved_weights: Shapes,
    left_aside: Mapping[str, str],
) -> Matches:
    saved = tensor_files.shapes(path / "optimizer")
    check_plan(path, model, saved)
    initial = initial_state(optimizer)
    create_state(optimizer)
    tensors = named_state(optimizer)
    ours = shapes_on_all_ranks(tensors, ranks)
    matches = match_state(ours, saved, weights, saved_weights, left_aside)
    _read(path / "optimizer", tensors, matches.restored, ranks)
    put_back(optimizer, initial, matches.left)
    return matches


def _by_parameter(state: Shapes, parameters: Iterable[str]) -> dict[str, dict[str, str]]:
    """Returns the names of state tensors by parameter and by what they are called there."""
    known = set(parameters)
    found: dict[str, dict[str, str]] = {}
    for name in state:
        _, _, rest = name.partition(".")
        parameter = rest
        while parameter and parameter not in known:
            parameter = parameter.rpartition(".")[0]
        if parameter:
            table = f"{parameter.removesuffix('.weight').rpartition('.')[2]}."
            kind = rest[len(parameter) + 1 :].removeprefix(table)
            found.setdefault(parameter, {})[kind] = name
    return found


def _read(
    folder: Path, tensors: Mapping[str, Tensor], names: Mapping[str, str], ranks: Ranks
) -> None:
    """Fills our tensors from those of other names, of which one may be the value of several."""
    rounds: list[dict[str, str]] = []
    for name, old in names.items():
        free = next((pairs for pairs in rounds if old not in pairs), None)
        if free is None:
            rounds.append(free := {})
        free[old] = name
    for pairs in rounds:
        mine = {old: tensors[name] for old, name in pairs.items() if name in tensors}
        tensor_files.read(folder, mine, ranks.control)


def _check_map(path: Path, param_map: Mapping[str, str], ours: Shapes, saved: Shapes) -> None:
    unknown = [
        *(f"{new} is not in this model{_hint(new, ours)}" for new in param_map if new not in ours),
        *(
            f"{old} is not in the checkpoint{_hint(old, saved)}"
            for old in param_map.values()
            if old not in saved
        ),
    ]
    if unknown:
        raise ValueError(
            f"fine_tune_ckpt_param_map, from {path} to this model: {'; '.join(unknown)}"
        )


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _block(title: str, entries: list[str]) -> list[str]:
    return [f"  {title} ({len(entries)}):", *(f"    {entry}" for entry in entries)] * bool(entries)


def _listed(reasons: Mapping[str, str]) -> str:
    shown = [f"{name}: {why}" for name, why in list(reasons.items())[:10]]
    return "; ".join(shown) + ("; ..." if len(reasons) > 10 else "")
