import pytest
import torch
from google.protobuf import text_format

from tzrec_core.batch import Batch
from tzrec_core.losses.build import build_loss
from tzrec_core.losses.cross_entropy import binary_cross_entropy
from tzrec_core.losses.focal import binary_focal_loss
from tzrec_core.losses.jrc import jrc_loss
from tzrec_core.protos.loss_pb2 import LossConfig

NUM_CLASS = {"softmax_cross_entropy": 2, "jrc_loss": 2}
OPTIONS = {"jrc_loss": 'session_name: "user"'}
SCHEMA = [field.name for field in LossConfig.DESCRIPTOR.oneofs_by_name["loss"].fields]
SESSIONS = torch.tensor([5, 5, 9])
BATCH = Batch(
    dense=torch.zeros(3, 0),
    sparse=None,
    weighted=None,
    labels={},
    sample_weights={},
    group_ids={"user": SESSIONS},
    position={},
)


def parse(text):
    return text_format.Parse(text, LossConfig())


@pytest.mark.parametrize("name", SCHEMA)
def test_every_loss_in_the_schema_can_be_built(name):
    num_class = NUM_CLASS.get(name, 1)

    loss = build_loss(parse(f"{name} {{ {OPTIONS.get(name, '')} }}"), num_class=num_class)

    assert loss.name == name
    assert loss(torch.zeros(3, num_class), torch.tensor([0, 1, 1]), BATCH).shape == (3,)


def test_label_smoothing_reaches_the_formula():
    config = parse("binary_cross_entropy { label_smoothing: 0.25 }")
    logits, target = torch.tensor([[2.0]]), torch.tensor([0])
    torch.testing.assert_close(
        build_loss(config, num_class=1).function(logits, target),
        binary_cross_entropy(logits, target, label_smoothing=0.25),
    )


def test_options_of_the_focal_loss_reach_the_formula():
    config = parse("binary_focal_loss { gamma: 1.5 alpha: 0.25 }")
    logits, target = torch.tensor([[2.0], [-1.0]]), torch.tensor([0, 1])
    torch.testing.assert_close(
        build_loss(config, num_class=1).function(logits, target),
        binary_focal_loss(logits, target, gamma=1.5, alpha=0.25),
    )


@pytest.mark.parametrize("same_label_competes", [False, True])
def test_options_and_sessions_of_the_jrc_loss_reach_the_formula(same_label_competes):
    switch = f"same_label_competes: {same_label_competes}"
    loss = build_loss(
        parse(f'jrc_loss {{ session_name: "user" alpha: 0.25 {switch} }}'), num_class=2
    )
    logits, target = torch.randn(3, 2), torch.tensor([0, 1, 0])

    assert loss.session == "user"
    torch.testing.assert_close(
        loss(logits, target, BATCH),
        jrc_loss(logits, target, SESSIONS, alpha=0.25, same_label_competes=same_label_competes),
    )


def test_a_session_that_batches_do_not_have_is_refused_by_name():
    loss = build_loss(parse('jrc_loss { session_name: "page" }'), num_class=2)
    with pytest.raises(ValueError, match=r"'user'.*'page'"):
        loss(torch.zeros(3, 2), torch.tensor([0, 1, 0]), BATCH)


@pytest.mark.parametrize(
    ("text", "num_class", "message"),
    [
        ("binary_cross_entropy {}", 2, "num_class 1, got 2"),
        ("softmax_cross_entropy {}", 1, "num_class 2 or more, got 1"),
        ("l2_loss {}", 3, "num_class 1, got 3"),
        ("binary_cross_entropy { label_smoothing: 1 }", 1, "label_smoothing"),
        ("softmax_cross_entropy { label_smoothing: -0.5 }", 2, "label_smoothing"),
        ("binary_focal_loss {}", 2, "num_class 1, got 2"),
        ("binary_focal_loss { gamma: -1 }", 1, "gamma must be finite and >= 0, got -1"),
        ("binary_focal_loss { alpha: 0 }", 1, r"alpha must be in \(0, 1\), got 0"),
        ("binary_focal_loss { alpha: 1 }", 1, r"alpha must be in \(0, 1\), got 1"),
        ("jrc_loss {}", 2, "jrc_loss.session_name"),
        ('jrc_loss { session_name: "user" }', 1, "num_class 2, got 1"),
        ('jrc_loss { session_name: "user" alpha: 1.5 }', 2, r"alpha must be in \[0, 1\]"),
        ("", 1, "None"),
    ],
)
def test_losses_that_cannot_be_built_are_refused(text, num_class, message):
    with pytest.raises(ValueError, match=message):
        build_loss(parse(text), num_class=num_class)
