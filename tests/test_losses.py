from __future__ import annotations

import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skavid.losses import LOSSES, bce, eq3, hinge, lsgan

NETWORKS = ("detector", "inpainter")
BOTH = list(itertools.product(LOSSES.values(), NETWORKS))
# O of these two is 0.75 and 0.25: their odds are 3 and 1/3.
LOG3 = math.log(3)


def maps(*values: float) -> torch.Tensor:
    """One image of one row of regions."""
    return torch.tensor([[values]], dtype=torch.float64)


def logits_of(*regularities: float) -> torch.Tensor:
    return torch.logit(maps(*regularities)).requires_grad_()


def gradient(loss, logits: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    logits = logits.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(logits, *args, **kwargs), logits)
    return slope.squeeze()


# --- hand-computed values ------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "network", "expected"), [
    # O = 0.75 is regular, O = 0.75 is irregular: -log 0.75 = 0.287682, -log 0.25 = 1.386294.
    (bce, "detector", (0.287682 + 1.386294) / 2),
    (bce, "inpainter", 0.287682),
    # d = (z + 1) / 2 = (1.098612 + 1) / 2 = 1.049306: 0.049306^2 and 1.049306^2.
    (lsgan, "detector", (0.002431 + 1.101043) / 2),
    (lsgan, "inpainter", 0.002431),
    # max(0, 1 - 1.098612) = 0 and 1 + 1.098612; the mean of -z.
    (hinge, "detector", 2.098612 / 2),
    (hinge, "inpainter", -1.098612),
    # -log(0.75^2 + 0.25^2) = -log 0.625, log(0.25^2 + 0.25^2) = log 0.125.
    (eq3, "detector", 0.470004),
    (eq3, "inpainter", -2.079442),
])  # fmt: skip
def test_losses_have_the_values_worked_out_by_hand(loss, network, expected):
    observed = loss(maps(LOG3, LOG3), maps(1, 0), None, network=network)
    assert observed.shape == ()
    assert observed.item() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("loss", "network", "expected"), [
    # The same with the weights 3 and 1, the second region being undecided, t = 0.5:
    # (3 * 0.287682 + 0.5 * (0.287682 + 1.386294)) / 4.
    (bce, "detector", 0.425009),
    (bce, "inpainter", 0.287682),
    # (3 * 0.002431 + 0.549306^2) / 4.
    (lsgan, "detector", 0.077258),
    (lsgan, "inpainter", 0.002431),
    # (3 * 0 + 0.5 * 0 + 0.5 * 2.098612) / 4.
    (hinge, "detector", 0.262326),
    (hinge, "inpainter", -1.098612),
    # p = 0.75 and 0.5: -log(3 * 0.5625 + 0.25) = -log 1.9375; log(4 * 0.0625) = log 0.25.
    (eq3, "detector", -0.661398),
    (eq3, "inpainter", -1.386294),
])  # fmt: skip
def test_weights_and_shares_have_the_values_worked_out_by_hand(loss, network, expected):
    observed = loss(maps(LOG3, LOG3), maps(1, 0.5), maps(3, 1), network=network)
    assert observed.item() == pytest.approx(expected, abs=2e-6)


def test_eq3_is_the_mean_over_images_of_whole_maps():
    logits = torch.tensor([[[0.0, 0.0]], [[LOG3, LOG3]]])
    # -log(2 * 0.25) = 0.693147 and -log(2 * 0.5625) = -0.117783.
    assert eq3(logits, torch.ones_like(logits), None).item() == pytest.approx(0.287682, abs=1e-6)
    # An image of weight 0 is left out, not counted as 0.
    weight = torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]])
    assert eq3(logits, torch.ones_like(logits), weight).item() == pytest.approx(0.693147, abs=1e-6)


def test_lsgan_of_the_linear_output_is_least_squares_in_the_authors_units():
    # facts of the authors' code: D's slopes 2 (d - 1) / n and 2 f / n, I's 2 (f - 1) / n, for
    # the output d; z = 2 d - 1 halves them.
    d = maps(0.2, 0.9, 1.4)
    z = 2 * d - 1
    expected = {"regular": d - 1, "irregular": d, "fooled": d - 1}
    observed = {
        "regular": gradient(lsgan, z, torch.ones_like(z), None),
        "irregular": gradient(lsgan, z, torch.zeros_like(z), None),
        "fooled": gradient(lsgan, z, None, None, network="inpainter"),
    }
    for name, slopes in expected.items():
        torch.testing.assert_close(observed[name], slopes.squeeze() / 3)


# --- what holds for all --------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "network"), BOTH)
@settings(deadline=None)
@given(z=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=6), data=st.data())
def test_losses_and_slopes_are_finite(loss, network, z, data):
    shares = st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=len(z), max_size=len(z))
    logits, regular, weight = (
        torch.tensor([[values]]) for values in (z, data.draw(shares), data.draw(shares))
    )
    for given_weight in (None, weight):
        value = loss(logits, regular, given_weight, network=network)
        assert torch.isfinite(value)
        assert value.dtype == torch.float32
        assert torch.isfinite(gradient(loss, logits, regular, given_weight, network=network)).all()


@pytest.mark.parametrize(("loss", "network"), BOTH)
def test_a_weight_of_zeros_gives_no_loss_and_no_slope(loss, network):
    logits = torch.tensor([[[-1e4, -1.0], [2.0, 1e4]]])
    regular, weight = torch.zeros_like(logits), torch.zeros_like(logits)
    assert loss(logits, regular, weight, network=network).item() == 0
    assert (gradient(loss, logits, regular, weight, network=network) == 0).all()


@pytest.mark.parametrize(("loss", "network"), BOTH)
def test_regions_of_weight_zero_do_not_count(loss, network):
    both, one = maps(0.3, -2.0), maps(0.3)
    seen = loss(both, maps(1, 0), maps(1, 0), network=network)
    torch.testing.assert_close(seen, loss(one, maps(1), maps(1), network=network))


@pytest.mark.parametrize(("loss", "network"), BOTH)
def test_no_weight_is_a_weight_of_one(loss, network):
    logits, regular = maps(0.3, -2.0, 1.0), maps(1, 0, 0.25)
    torch.testing.assert_close(
        loss(logits, regular, None, network=network),
        loss(logits, regular, torch.ones_like(logits), network=network),
    )


@pytest.mark.parametrize("loss", LOSSES.values())
def test_the_inpainter_need_not_know_what_is_regular(loss):
    logits = maps(0.3, -2.0)
    ignored = loss(logits, maps(0, 1), None, network="inpainter")
    assert loss(logits, None, None, network="inpainter") == ignored


@pytest.mark.parametrize("loss", LOSSES.values())
def test_slopes_push_each_network_the_right_way(loss):
    logits = maps(-0.5, 0.5)
    up, down = gradient(loss, logits, maps(1, 0), None)
    assert up < 0 < down
    assert (gradient(loss, logits, None, None, network="inpainter") < 0).all()


@pytest.mark.parametrize("loss", LOSSES.values())
def test_swapping_regular_and_irregular_turns_the_logits_round(loss):
    logits, regular, weight = maps(0.3, -2.0, 1.5), maps(1, 0, 0.25), maps(1, 2, 3)
    torch.testing.assert_close(loss(logits, regular, weight), loss(-logits, 1 - regular, weight))


@pytest.mark.parametrize(("loss", "minimiser"), [
    # p regular and q irregular examples of one region, p / (p + q) = 0.8.
    (bce, math.log(0.8 / 0.2)),  # O = 0.8
    (lsgan, 2 * 0.8 - 1),  # d = 0.8
    (hinge, 1.0),  # the likelier side, at the margin
])  # fmt: skip
def test_the_detectors_optimum_is_the_share_of_regular_examples(loss, minimiser):
    z = torch.arange(-3, 3, 0.001, dtype=torch.float64)
    targets = torch.tensor([1.0, 1, 1, 1, 0], dtype=torch.float64).reshape(1, 1, 5)
    totals = torch.stack([loss(point.expand(1, 1, 5), targets, None) for point in z])
    assert z[totals.argmin()].item() == pytest.approx(minimiser, abs=1e-3)
    # A share, 0.8, has the same optimum as the examples behind it.
    share = torch.full((1, 1, 1), 0.8, dtype=torch.float64)
    totals = torch.stack([loss(point.expand(1, 1, 1), share, None) for point in z])
    assert z[totals.argmin()].item() == pytest.approx(minimiser, abs=1e-3)


# --- the defect of Eq. 3 as printed --------------------------------------------------------------


def test_eq3_rewards_one_region_as_much_as_all_at_an_eleventh():
    one_hot = torch.full((1, 11, 11), -200.0, dtype=torch.float64)
    one_hot[0, 5, 5] = 200.0
    uniform = torch.logit(torch.full((1, 11, 11), 1 / 11, dtype=torch.float64))
    certain = torch.full((1, 11, 11), 200.0, dtype=torch.float64)
    regular = torch.ones_like(one_hot)
    # log ||d||^2: log 1, log(121 / 121), and log 121 = 4.80.
    assert eq3(one_hot, regular, None).item() == pytest.approx(0, abs=1e-9)
    assert eq3(uniform, regular, None).item() == pytest.approx(0, abs=1e-9)
    assert eq3(certain, regular, None).item() == pytest.approx(-math.log(121))
    # bce tells them apart: 120 missed regions of 121 at 200 nats, and log 11 each.
    assert bce(one_hot, regular, None).item() == pytest.approx(200 * 120 / 121)
    assert bce(uniform, regular, None).item() == pytest.approx(math.log(11))


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=8))
def test_slopes_of_eq3_and_bce_for_real_regions_are_those_of_the_book(regularities):
    z, d = logits_of(*regularities), maps(*regularities).squeeze(0).squeeze(0)
    real = torch.ones_like(z)
    torch.testing.assert_close(
        gradient(eq3, z, real, None).reshape(-1), -2 * d**2 * (1 - d) / (d**2).sum()
    )
    torch.testing.assert_close(gradient(bce, z, real, None).reshape(-1), -(1 - d) / len(d))


def test_eq3_does_not_correct_a_region_that_the_detector_misses():
    z = logits_of(1e-6, 0.9, 0.9, 0.9)
    real = torch.ones_like(z)
    assert -gradient(eq3, z, real, None)[0] < 1e-11
    assert -gradient(bce, z, real, None)[0] == pytest.approx(0.25, rel=1e-5)


def test_eq3_leaves_the_inpainter_without_a_slope_where_the_detector_rejects():
    f = torch.full((4,), 1e-4, dtype=torch.float64)
    z = logits_of(*f.tolist())
    saturating = gradient(eq3, z, None, None, network="inpainter")
    torch.testing.assert_close(saturating, -2 * f / 4)
    # Non-saturating: -(1 - f) / n.
    torch.testing.assert_close(gradient(bce, z, None, None, network="inpainter"), -(1 - f) / 4)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES.values())
def test_what_is_wrong_is_said(loss):
    logits = maps(0.0)
    message = "network must be 'detector' or 'inpainter'. Got 'both'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loss(logits, logits, None, network="both")
    message = "target must be a tensor when network='detector'. Got None."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loss(logits, None, None)


def test_losses_go_by_their_names():
    assert {name: loss.__name__ for name, loss in LOSSES.items()} == {
        name: name for name in LOSSES
    }
    assert set(LOSSES) == {"bce", "lsgan", "hinge", "eq3"}
