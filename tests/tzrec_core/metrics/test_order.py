import pytest
import torch

from tzrec_core.metrics.order import argsort, lexsort, ordinals

DTYPES = [
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int32,
    torch.int64,
]


def sample(dtype, size=3000):
    """Random values with many ties and the ends of the type."""
    generator = torch.Generator().manual_seed(0)
    if dtype == torch.bool:
        return torch.rand(size, generator=generator) < 0.5
    if dtype.is_floating_point:
        values = torch.randn(size, generator=generator).to(dtype)
        ends = [torch.inf, -torch.inf, 0.0, -0.0, torch.finfo(dtype).max, torch.finfo(dtype).tiny]
    else:
        info = torch.iinfo(dtype)
        values = torch.randint(info.min, info.max, (size,), generator=generator, dtype=dtype)
        ends = [info.min, info.max, info.max - 1, 0, 1]
    rows = torch.randint(size, (200, len(ends)), generator=generator)
    for end, places in zip(ends, rows.t(), strict=True):
        values[places] = end
    return values[torch.randint(size, (size,), generator=generator)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_is_that_of_a_stable_sort(dtype):
    values = sample(dtype)
    listed = values.tolist()
    assert argsort(values).tolist() == sorted(range(len(listed)), key=listed.__getitem__)


def test_keys_too_wide_to_share_64_bits_with_a_position_are_ordered_too():
    keys = sample(torch.int64)
    assert int(keys.min()) == -(2**63)
    assert int(keys.max()) == 2**63 - 1
    assert torch.equal(argsort(keys), torch.argsort(keys, stable=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_row_of_a_matrix_is_ordered_on_its_own(dtype):
    values = sample(dtype).view(60, 50)
    assert torch.equal(argsort(values), torch.argsort(values + 0.0, dim=1, stable=True))


@pytest.mark.parametrize("shape", [(0,), (0, 4), (1,), (3, 1)])
def test_nothing_and_single_values_are_in_order(shape):
    assert argsort(torch.rand(shape)).shape == shape
    assert not argsort(torch.rand(shape)).any()


def test_the_values_are_left_as_they_were():
    values = sample(torch.int64)
    before = values.clone()
    argsort(values)
    assert torch.equal(values, before)


def test_rows_are_ordered_by_the_last_key_first():
    columns = [sample(dtype) for dtype in (torch.float32, torch.uint8, torch.bool)]
    rows = list(zip(*(column.tolist() for column in columns[::-1]), strict=True))
    assert lexsort(*columns).tolist() == sorted(range(len(rows)), key=rows.__getitem__)


def test_a_key_equal_in_all_rows_changes_nothing():
    values = sample(torch.float32)
    assert torch.equal(lexsort(values, torch.full((3000,), 7)), argsort(values))
    assert lexsort(torch.rand(0), torch.zeros(0)).tolist() == []


@pytest.mark.parametrize("dtype", DTYPES[:4])
def test_ordinals_differ_where_values_do(dtype):
    values = sample(dtype)
    some, others = values[:300, None], values[None, :300]
    mapped = ordinals(values)
    assert torch.equal(some < others, mapped[:300, None] < mapped[None, :300])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_orders_as_a_cpu_does(dtype):
    values = sample(dtype)
    assert torch.equal(argsort(values.cuda()).cpu(), argsort(values))
