"""Losses of I and D over the regions of D: Eq. 3 and its working relatives (Sec. 3.3).

Every loss has the signature ``loss(logits, regular, weight, *, player="detector")``. D gives the
logits z, linear; the regularity is ``O = sigmoid(z)``, whatever the loss, so a D that is blind
says z = 0 and O = 0.5.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LOSSES", "bce", "eq3", "hinge", "lsgan"]

# Added within eq3's logarithm: bounds it from below by -27.6, and changes it nowhere else.
LOG_GUARD = 1e-12
PLAYERS = ("detector", "inpainter")


def bce(
    logits: Tensor, regular: Tensor | None, weight: Tensor | None, *, player: str = "detector"
) -> Tensor:
    """Cross entropy a region: Eq. 3 read region by region, as the original GAN has it.

    Parameters
    ----------
    logits : Tensor of shape (n_images, n1, n2)
        D's linear output, z.
    regular : Tensor of the same shape or None
        What each region truly is: 1 regular, 0 irregular, or a share between. The inpainter
        wants all regions to look regular: then it is ignored, and may be None.
    weight : Tensor of the same shape or None
        How much a region counts, at least 0; None is 1 for all.
    player : {"detector", "inpainter"}, default="detector"
        Whose loss.

    Returns
    -------
    loss : Tensor of shape ()
        To be minimised. D: the weighted mean of ``-t log O - (1 - t) log(1 - O)``; I: that of
        ``-log O``, which does not saturate. 0 where all weights are 0.

    Raises
    ------
    ValueError
        If the player is unknown, or the detector is not told what is regular.

    Notes
    -----
    The mean of ``log O_i^2`` in place of the logarithm of the sum is twice this: the reading of
    Eq. 3 in which each region is told apart from the others ([1]_, section 3, for both players).

    References
    ----------
    .. [1] Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014.

    Examples
    --------
    >>> import torch
    >>> from skavid.losses import bce
    >>> bce(torch.zeros(1, 2, 2), torch.ones(1, 2, 2), None)
    tensor(0.6931)
    """
    truth = _truth(logits, regular, player)
    each = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return _mean(each, weight)


def lsgan(
    logits: Tensor, regular: Tensor | None, weight: Tensor | None, *, player: str = "detector"
) -> Tensor:
    """Least squares, what the authors' code minimises.

    Parameters
    ----------
    logits : Tensor of shape (n_images, n1, n2)
        D's linear output, z.
    regular : Tensor of the same shape or None
        As in `bce`.
    weight : Tensor of the same shape or None
        How much a region counts, at least 0; None is 1 for all.
    player : {"detector", "inpainter"}, default="detector"
        Whose loss.

    Returns
    -------
    loss : Tensor of shape ()
        To be minimised. D: the weighted mean of ``(d - t)^2`` with ``d = (z + 1) / 2``; I: that
        of ``(d - 1)^2``. 0 where all weights are 0.

    Raises
    ------
    ValueError
        If the player is unknown, or the detector is not told what is regular.

    Notes
    -----
    The 0-1 coding of [1]_: targets 0 and 1 for d, which are -1 and 1 for z; a blind D says
    d = 0.5, z = 0. D's optimum is ``d = p / (p + q)``, p and q being how likely a region is
    regular and irregular, so z of -1 or 1 is as sure as it gets, and ``O`` lies between 0.27
    and 0.73.

    References
    ----------
    .. [1] Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017.

    Examples
    --------
    >>> import torch
    >>> from skavid.losses import lsgan
    >>> lsgan(torch.tensor([[[3.0, -1.0]]]), torch.tensor([[[1.0, 0.0]]]), None)
    tensor(0.5000)
    """
    truth = _truth(logits, regular, player)
    return _mean(((logits + 1) / 2 - truth) ** 2, weight)


def hinge(
    logits: Tensor, regular: Tensor | None, weight: Tensor | None, *, player: str = "detector"
) -> Tensor:
    """Hinge loss: D minds only regions that it is not sure enough of.

    Parameters
    ----------
    logits : Tensor of shape (n_images, n1, n2)
        D's linear output, z.
    regular : Tensor of the same shape or None
        As in `bce`.
    weight : Tensor of the same shape or None
        How much a region counts, at least 0; None is 1 for all.
    player : {"detector", "inpainter"}, default="detector"
        Whose loss.

    Returns
    -------
    loss : Tensor of shape ()
        To be minimised. D: the weighted mean of ``t max(0, 1 - z) + (1 - t) max(0, 1 + z)``;
        I: that of ``-z``. 0 where all weights are 0.

    Raises
    ------
    ValueError
        If the player is unknown, or the detector is not told what is regular.

    Notes
    -----
    The hinge version of [2]_, section 4, after [1]_. For t of 0 or 1 it is ``max(0, 1 - y z)``
    with ``y = 2 t - 1``; for a share between it is the mean over what the region may be. I's
    loss has no lower bound; D, which pays for being fooled, holds it.

    References
    ----------
    .. [1] Lim and Ye, "Geometric GAN", arXiv 1705.02894, 2017.
    .. [2] Miyato et al., "Spectral Normalization for Generative Adversarial Networks",
       ICLR 2018.

    Examples
    --------
    >>> import torch
    >>> from skavid.losses import hinge
    >>> hinge(torch.tensor([[[2.0, 0.5]]]), torch.tensor([[[1.0, 0.0]]]), None)
    tensor(0.7500)
    """
    truth = _truth(logits, regular, player)
    if player == "inpainter":
        return _mean(-logits, weight)
    missed = truth * functional.relu(1 - logits) + (1 - truth) * functional.relu(1 + logits)
    return _mean(missed, weight)


def eq3(
    logits: Tensor, regular: Tensor | None, weight: Tensor | None, *, player: str = "detector"
) -> Tensor:
    """Eq. 3 as printed: the logarithm of a whole map's squared norm.

    Parameters
    ----------
    logits : Tensor of shape (n_images, n1, n2)
        D's linear output, z.
    regular : Tensor of the same shape or None
        As in `bce`.
    weight : Tensor of the same shape or None
        How much a region counts, at least 0; None is 1 for all.
    player : {"detector", "inpainter"}, default="detector"
        Whose loss.

    Returns
    -------
    loss : Tensor of shape ()
        To be minimised. D: the mean over images of ``-log(sum_i w_i p_i^2)``, where
        ``p = t O + (1 - t) (1 - O)`` is how likely D holds the truth; I: that of
        ``log(sum_i w_i (1 - O_i)^2)``. Images of weight 0 are left out; 0 where all are.

    Raises
    ------
    ValueError
        If the player is unknown, or the detector is not told what is regular.

    Notes
    -----
    Eq. 3 of [1]_ is ``min_I max_D E[log ||D(X)||^2] + E[log ||Y - D(I(X~))||^2]`` with Y all
    ones: this, for maps that are regular or irregular throughout. Printed, D is not bounded and
    wins by growing; here it is ``O = sigmoid(z)``, and 1e-12 is added within the logarithm.

    It has a defect, which is why it is not the default: the norm is of the whole map. A map
    with one region at 1 and 120 at 0 is worth as much as one with all at 1/11. The gradient
    for the logit of a regular region is ``2 O_i^2 (1 - O_i) / sum O^2``: none for a region that
    D misses altogether, where `bce` gives ``(1 - O_i) / n``. I's gradient vanishes where D
    rejects what I made.

    References
    ----------
    .. [1] Sabokrou et al., "AVID: Adversarial Visual Irregularity Detection", ACCV 2018,
       section 3.3.

    Examples
    --------
    >>> import torch
    >>> from skavid.losses import eq3
    >>> eq3(torch.zeros(1, 1, 2), torch.ones(1, 1, 2), None)  # -log(2 * 0.5^2)
    tensor(0.6931)
    """
    truth = _truth(logits, regular, player)
    weights = torch.ones_like(logits) if weight is None else weight
    doubt = torch.sigmoid(-logits)  # 1 - O, without cancellation
    if player == "inpainter":
        sign, part = 1.0, doubt
    else:
        sign, part = -1.0, truth * torch.sigmoid(logits) + (1 - truth) * doubt
    logarithms = sign * torch.log((weights * part**2).sum((1, 2)) + LOG_GUARD)
    counts = (weights.sum((1, 2)) > 0).to(logits.dtype)
    return (counts * logarithms).sum() / counts.sum().clamp(min=1)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "bce": bce,
    "lsgan": lsgan,
    "hinge": hinge,
    "eq3": eq3,
}
"""The losses by the names that the estimator knows."""


def _truth(logits: Tensor, regular: Tensor | None, player: str) -> Tensor:
    """Give the regularity that this player wants D to report."""
    if player not in PLAYERS:
        raise ValueError(f"player must be 'detector' or 'inpainter'. Got {player!r}.")
    if player == "inpainter":
        return torch.ones_like(logits)
    if regular is None:
        raise ValueError("regular must say what each region is when player='detector'. Got None.")
    return regular


def _mean(each: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return each.mean()
    return (weight * each).sum() / weight.sum().clamp(min=torch.finfo(each.dtype).tiny)
