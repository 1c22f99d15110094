"""Small batches, logits and configs that the tests of tasks share."""

import dataclasses

import torch
from google.protobuf import text_format

from tzrec_core.batch import Batch
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.tasks import build_tasks

BCE = "losses { binary_cross_entropy {} }"
L2 = "losses { l2_loss {} }"
SOFTMAX = "losses { softmax_cross_entropy {} }"


def config(model, data='label_fields: ["click", "watch_time"]'):
    return text_format.Parse(
        f"data_config {{ {data} }} model_config {{ {model} }}", EasyRecConfig()
    )


def build_task(settings):
    [task] = build_tasks(settings)
    return task


def towers(*bodies, settings=""):
    """A config of towers ``a``, ``b`` and so on, each with the given body."""
    text = "".join(
        f'task_towers {{ tower_name: "{name}" {body} }}'
        for name, body in zip("abcdef", bodies, strict=False)
    )
    fields = """label_fields: ["click", "watch_time", "stars"]
        sample_weight_fields: ["weight", "other_weight"]"""
    return config(f"{settings} simple_multi_task {{ {text} }}", fields)


CLICK = f'label_name: "click" {BCE} sample_weight_name: "weight" '
WATCH = f"""label_name: "watch_time" {L2} weight: 0.01 sample_weight_name: "other_weight"
    task_space_indicator_label: "click" in_task_space_weight: 2 out_task_space_weight: 0.5 """
STARS = f'label_name: "stars" {SOFTMAX} num_class: 3 weight: 0.5 '
WEIGHTED = 'label_fields: "click" sample_weight_fields: "weight"'


def make_batch(size=40, seed=0, **labels):
    generator = torch.Generator().manual_seed(seed)
    defaults = {
        "click": torch.randint(0, 2, (size,), generator=generator),
        "watch_time": torch.rand(size, generator=generator) * 60,
        "stars": torch.randint(0, 3, (size,), generator=generator),
    }
    return Batch(
        dense=torch.zeros(size, 0),
        sparse=None,
        weighted=None,
        labels=defaults | labels,
        sample_weights={
            name: torch.rand(size, generator=generator) * 3 for name in ("weight", "other_weight")
        },
        group_ids={"user": torch.randint(0, 6, (size,), generator=generator)},
        position={},
    )


def rows_of(batch, start, end):
    """The batch's rows from start to end."""
    parts = {
        name: {key: column[start:end] for key, column in getattr(batch, name).items()}
        for name in ("labels", "sample_weights", "group_ids")
    }
    return dataclasses.replace(batch, dense=batch.dense[start:end], **parts)


def make_logits_of_towers(size=40):
    """For the towers of ``CLICK``, ``WATCH`` and ``STARS``."""
    return {
        name: make_logits(size, num_class, seed)
        for seed, (name, num_class) in enumerate({"a": 1, "b": 1, "c": 3}.items())
    }


def make_logits(size=40, num_class=1, seed=5):
    return torch.randn(size, num_class, generator=torch.Generator().manual_seed(seed))
