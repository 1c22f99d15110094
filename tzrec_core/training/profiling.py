"""Records some steps of a training with torch's profiler."""

import logging
import warnings
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule

from tzrec_core.distributed.ranks import Ranks

log = logging.getLogger(__name__)

_NUM_STEPS = 10


def phases(num_steps: int | None) -> tuple[int, int, int]:
    """Returns how many steps to wait, to warm up and to record, of ``num_steps``; None: of many.

    The first step is unlike the others, and the first one that is recorded is slow.
    """
    if num_steps is None:
        return 1, 1, _NUM_STEPS
    assert num_steps > 0
    wait = 1 if num_steps > 2 else 0
    warmup = 1 if num_steps > 1 else 0
    return wait, warmup, min(num_steps - wait - warmup, _NUM_STEPS)


class StepProfiler:
    """Writes a trace of a few steps of this rank into a folder, as Chrome and Perfetto open it."""

    def __init__(
        self, folder: Path, ranks: Ranks, *, first_step: int, num_steps: int | None
    ) -> None:
        """Begins.

        Args:
            folder: Is made if it is not there.
            ranks: From ``process_group``.
            first_step: Number of the step that comes next.
            num_steps: How many there are to choose from; None: many; 0: record nothing.
        """
        self._folder = folder
        self._ranks = ranks
        self._step = first_step
        self._profile: profile | None = None
        if num_steps != 0:
            wait, warmup, active = phases(num_steps)
            self._first_step = first_step + wait + warmup
            self._last_step = self._first_step + active - 1
            self._profile = self._begin(wait, warmup, active)

    def step(self) -> None:
        """Counts a step that has just ended."""
        self._step += 1
        if self._profile is not None and self._step <= self._last_step:
            self._profile.step()
        else:
            self.stop()

    def stop(self) -> None:
        """Ends the recording, and writes what there is of it."""
        recorded, self._profile = self._profile, None
        if recorded is None:
            return
        recorded.stop()
        if self._step <= self._first_step and self._ranks.rank == 0:
            log.warning("is_profiling: there were too few steps, nothing is recorded")

    def _begin(self, wait: int, warmup: int, active: int) -> profile:
        activities = [ProfilerActivity.CPU]
        if self._ranks.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Profiler won't be using warmup")
            steps = schedule(wait=wait, warmup=warmup, active=active, repeat=1)
        begun = profile(
            activities=activities,
            schedule=steps,
            on_trace_ready=self._write,
            record_shapes=True,
            profile_memory=True,
            with_stack=True,
        )
        begun.start()
        return begun

    def _write(self, recorded: profile) -> None:
        last_step = self._step - 1
        if last_step < self._first_step:
            return
        name = f"rank-{self._ranks.rank}-steps-{self._first_step}-{last_step}.json"
        self._folder.mkdir(parents=True, exist_ok=True)
        aside = self._folder / f".{name}"
        recorded.export_chrome_trace(str(aside))
        path = aside.rename(self._folder / name)
        if self._ranks.rank == 0:
            log.info("A profile of steps %d to %d is in %s", self._first_step, last_step, path)
