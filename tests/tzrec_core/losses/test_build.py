import pytest
import torch
from google.protobuf import text_format

from tzrec_core.losses.build import build_loss
from tzrec_core.losses.cross_entropy import binary_cross_entropy
from tzrec_core.protos.loss_pb2 import LossConfig
from tzrec_core.protos.options_pb2 import planned

NUM_CLASS = {"softmax_cross_entropy": 2}
SUPPORTED = [
    field.name
    for field in LossConfig.DESCRIPTOR.oneofs_by_name["loss"].fields
    if not field.GetOptions().Extensions[planned]
]


@pytest.mark.parametrize("name", SUPPORTED)
def test_every_loss_in_the_schema_can_be_built(name):
    config = LossConfig()
    getattr(config, name).SetInParent()
    num_class = NUM_CLASS.get(name, 1)

    loss = build_loss(config, num_class=num_class)

    assert loss.name == name
    assert loss.function(torch.zeros(3, num_class), torch.tensor([0, 1, 1])).shape == (3,)


def test_label_smoothing_reaches_the_formula():
    config = text_format.Parse("binary_cross_entropy { label_smoothing: 0.25 }", LossConfig())
    logits, target = torch.tensor([[2.0]]), torch.tensor([0])
    torch.testing.assert_close(
        build_loss(config, num_class=1).function(logits, target),
        binary_cross_entropy(logits, target, label_smoothing=0.25),
    )


@pytest.mark.parametrize(
    ("text", "num_class", "message"),
    [
        ("binary_cross_entropy {}", 2, "num_class 1, got 2"),
        ("softmax_cross_entropy {}", 1, "num_class 2 or more, got 1"),
        ("l2_loss {}", 3, "num_class 1, got 3"),
        ("binary_cross_entropy { label_smoothing: 1 }", 1, "label_smoothing"),
        ("softmax_cross_entropy { label_smoothing: -0.5 }", 2, "label_smoothing"),
        ("jrc_loss {}", 2, "jrc_loss"),
        ("", 1, "None"),
    ],
)
def test_losses_that_cannot_be_built_are_refused(text, num_class, message):
    with pytest.raises(ValueError, match=message):
        build_loss(text_format.Parse(text, LossConfig()), num_class=num_class)
