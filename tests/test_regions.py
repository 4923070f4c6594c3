import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skavid.core.regions import (
    PAPER_GEOMETRY,
    Geometry,
    aligned,
    grid_shape,
    lowest_region,
    padded_shape,
    reflect_pad,
    region_mean,
    region_slices,
)

geometries = st.one_of(
    st.sampled_from([1, 2, 4, 8, 16]).map(aligned),
    st.integers(1, 12).flatmap(
        lambda size: st.integers(1, size).map(lambda jump: Geometry(size, jump))
    ),
    st.just(PAPER_GEOMETRY),
)
sides = st.integers(1, 70)


def holders(geometry, pixel, length):
    """List the regions of one axis that hold a pixel, region by region."""
    n, _ = grid_shape(geometry, length, 1)
    return [i for i in range(n) if i * geometry.jump <= pixel < i * geometry.jump + geometry.size]


# The grid ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(geometry=geometries, height=sides, width=sides)
def test_every_pixel_is_held_and_no_region_is_needless(geometry, height, width):
    n1, n2 = grid_shape(geometry, height, width)
    held = np.zeros((height, width), dtype=int)
    for i in range(n1):
        for j in range(n2):
            region = region_slices(geometry, i, j, height, width)
            assert held[region].size > 0
            held[region] += 1
    assert held.min() >= 1
    size, jump = geometry
    assert n1 == 1 or (n1 - 2) * jump + size < height
    assert n2 == 1 or (n2 - 2) * jump + size < width


@settings(deadline=None, max_examples=50)
@given(geometry=geometries, height=sides, width=sides)
def test_the_padded_image_ends_where_the_last_region_ends(geometry, height, width):
    n1, n2 = grid_shape(geometry, height, width)
    rows, columns = padded_shape(geometry, height, width)
    unclipped = region_slices(geometry, n1 - 1, n2 - 1, 10**6, 10**6)
    assert (unclipped[0].stop, unclipped[1].stop) == (rows, columns)
    assert rows >= height
    assert columns >= width
    assert padded_shape(geometry, rows, columns) == (rows, columns)


@pytest.mark.parametrize(
    ("side", "n", "padded"), [(1, 1, 51), (51, 1, 51), (52, 2, 67), (224, 12, 227), (227, 12, 227)]
)
def test_the_papers_grid(side, n, padded):
    assert grid_shape(PAPER_GEOMETRY, side, 51) == (n, 1)
    assert padded_shape(PAPER_GEOMETRY, 51, side) == (51, padded)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32, 64, np.int64(4)])
def test_aligned_regions_tile(size):
    geometry = aligned(size)
    assert geometry == Geometry(size, size)
    assert type(geometry.size) is int


@pytest.mark.parametrize("size", [0, -4, 3, 128, 4.0, "4", True, None])
def test_other_region_sizes_are_refused(size):
    message = f"region_size must be a power of two from 1 to 64. Got {size!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        aligned(size)


# Pixels to regions and back ----------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(geometry=geometries, height=sides, width=sides, data=st.data())
def test_a_bright_pixel_lands_in_exactly_the_regions_that_hold_it(geometry, height, width, data):
    row, column = (data.draw(st.integers(0, side - 1)) for side in (height, width))
    image = torch.zeros(1, height, width)
    image[0, row, column] = 1.0
    lit = region_mean(image, geometry)[0].numpy() > 0
    expected = np.zeros(grid_shape(geometry, height, width), dtype=bool)
    expected[np.ix_(holders(geometry, row, height), holders(geometry, column, width))] = True
    assert np.array_equal(lit, expected)
    for i, j in np.ndindex(*expected.shape):
        rows, columns = region_slices(geometry, i, j, height, width)
        inside = rows.start <= row < rows.stop and columns.start <= column < columns.stop
        assert inside == expected[i, j]


@settings(deadline=None, max_examples=50)
@given(geometry=geometries, height=sides, width=sides, seed=st.integers(0, 99))
def test_region_mean_is_the_mean_of_the_regions_pixels(geometry, height, width, seed):
    maps = torch.rand(2, height, width, generator=torch.Generator().manual_seed(seed))
    maps[1] = (maps[1] > 0.5).float()
    means = region_mean(maps, geometry)
    assert means.dtype == maps.dtype
    for i, j in np.ndindex(*grid_shape(geometry, height, width)):
        rows, columns = region_slices(geometry, i, j, height, width)
        slow = maps[:, rows, columns].double().mean(dim=(1, 2))
        torch.testing.assert_close(means[:, i, j].double(), slow, rtol=1e-6, atol=0)
    assert torch.equal(region_mean(torch.ones_like(maps), geometry), torch.ones_like(means))
    assert torch.equal(region_mean(torch.zeros_like(maps), geometry), torch.zeros_like(means))


@settings(deadline=None, max_examples=50)
@given(geometry=geometries, height=sides, width=sides, seed=st.integers(0, 99))
def test_lowest_region_is_the_lowest_of_the_regions_that_hold_a_pixel(
    geometry, height, width, seed
):
    n1, n2 = grid_shape(geometry, height, width)
    scores = np.random.default_rng(seed).normal(size=(2, n1, n2)).astype(np.float32)
    given_scores = scores.copy()
    slow = np.full((2, height, width), np.inf, dtype=np.float32)
    for i in range(n1):
        for j in range(n2):
            region = (slice(None), *region_slices(geometry, i, j, height, width))
            slow[region] = np.minimum(slow[region], scores[:, i, j, np.newaxis, np.newaxis])
    lowest = lowest_region(scores, geometry, height, width)
    assert lowest.dtype == scores.dtype
    assert np.array_equal(lowest, slow)
    assert np.array_equal(scores, given_scores)


def test_a_doubtful_region_of_fig_2_marks_its_51_pixels():
    scores = np.ones((1, 12, 12))
    scores[0, 2, 11] = 0.0
    marked = lowest_region(scores, PAPER_GEOMETRY, 224, 224)[0] == 0
    rows, columns = np.nonzero(marked)
    assert (rows.min(), rows.max()) == (32, 82)
    assert (columns.min(), columns.max()) == (176, 223)
    assert marked.sum() == 51 * 48


def test_the_papers_geometry_is_autograds_receptive_field():
    # Fig. 2's strides without padding; 1 x 1 convolutions see nothing more.
    stack = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 1, kernel, stride) for kernel, stride in ((11, 4), (3, 2), (5, 2)))
    )
    for parameter in stack.parameters():
        torch.nn.init.ones_(parameter)
    height, width = padded_shape(PAPER_GEOMETRY, 80, 60)
    image = torch.rand(1, 1, height, width, requires_grad=True)
    scores = stack(image)[0, 0]
    assert scores.shape == grid_shape(PAPER_GEOMETRY, 80, 60) == (3, 2)
    for i, j in np.ndindex(*scores.shape):
        (gradient,) = torch.autograd.grad(scores[i, j], image, retain_graph=True)
        seen = torch.zeros(height, width, dtype=torch.bool)
        seen[region_slices(PAPER_GEOMETRY, i, j, height, width)] = True
        assert torch.equal(gradient[0, 0] != 0, seen)


# Reflection --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    pads=st.tuples(*[st.integers(0, 12)] * 4),
)
def test_reflect_pad_is_numpys_for_any_size(height, width, pads):
    left, right, top, bottom = pads
    images = torch.arange(2.0 * height * width).reshape(2, 1, height, width)
    expected = np.pad(
        images.numpy(), ((0, 0), (0, 0), (top, bottom), (left, right)), mode="reflect"
    )
    assert np.array_equal(reflect_pad(images, left, right, top, bottom).numpy(), expected)


def test_reflect_pad_passes_gradients_back_to_each_source():
    image = torch.ones(1, 1, 1, 3, requires_grad=True)
    reflect_pad(image, left=2, right=1, top=1, bottom=0).sum().backward()
    # Columns 2 1 | 0 1 2 | 1, on two rows.
    assert torch.equal(image.grad, torch.tensor([[[[2.0, 6.0, 4.0]]]]))


def test_nothing_to_add_costs_nothing():
    image = torch.ones(1, 1, 2, 3)
    assert reflect_pad(image, 0, 0, 0, 0) is image
