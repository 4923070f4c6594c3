"""Adversarial losses of I and D over the regions of D: Eq. 3 and alternatives (Sec. 3.3).

Every loss has the signature ``loss(logits, target, weight, *, network="detector")``. D returns
logits z; the regularity is ``O = sigmoid(z)`` for every loss, so an uninformative D returns z = 0
and O = 0.5.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LOSSES", "bce", "eq3", "hinge", "lsgan"]

# Added within the logarithm of eq3: bounds it from below by -27.6, without effect elsewhere.
LOG_GUARD = 1e-12
NETWORKS = ("detector", "inpainter")


def bce(
    logits: Tensor, target: Tensor | None, weight: Tensor | None, *, network: str = "detector"
) -> Tensor:
    """Compute the cross-entropy of each region: Eq. 3 per region, as in the original GAN.

    Parameters
    ----------
    logits : Tensor of shape (n_images, n1, n2)
        D's linear output, z.
    target : Tensor of the same shape or None
        1 for regular and 0 for irregular regions, or a share between. The inpainter's target is 1
        for all regions, so it is ignored for the inpainter and may be None.
    weight : Tensor of the same shape or None
        Weight of each region, at least 0; None weights all regions by 1.
    network : {"detector", "inpainter"}, default="detector"
        The network whose loss is computed.

    Returns
    -------
    loss : Tensor of shape ()
        To be minimised. D: the weighted mean of ``-t log O - (1 - t) log(1 - O)``; I: that of
        ``-log O``, which does not saturate. 0 where all weights are 0.

    Notes
    -----
    The mean of ``log O_i^2`` instead of the logarithm of the sum is twice this loss: the reading
    of Eq. 3 in which each region is classified on its own ([1]_, section 3, for both networks).

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
    target = _check_target(logits, target, network)
    each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _mean(each, weight)


def lsgan(
    logits: Tensor, target: Tensor | None, weight: Tensor | None, *, network: str = "detector"
) -> Tensor:
    """Compute the least-squares loss that the authors' code minimises.

    Parameters
    ----------
    logits, target, weight, network : Tensor, Tensor or None, Tensor or None, str
        As in `bce`.

    Returns
    -------
    loss : Tensor of shape ()
        To be minimised. D: the weighted mean of ``(d - t)^2`` with ``d = (z + 1) / 2``; I: that
        of ``(d - 1)^2``. 0 where all weights are 0.

    Notes
    -----
    The 0-1 coding of [1]_: the targets 0 and 1 of d are -1 and 1 for z; an uninformative D
    returns d = 0.5, z = 0. D's optimum is ``d = p / (p + q)``, where p and q are the likelihoods
    of a regular and an irregular region, so an optimal z lies in [-1, 1] and ``O`` between 0.27
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
    target = _check_target(logits, target, network)
    return _mean(((logits + 1) / 2 - target) ** 2, weight)


def hinge(
    logits: Tensor, target: Tensor | None, weight: Tensor | None, *, network: str = "detector"
) -> Tensor:
    """Compute the hinge loss, which ignores regions that D classifies with a sufficient margin.

    Parameters
    ----------
    logits, target, weight, network : Tensor, Tensor or None, Tensor or None, str
        As in `bce`.

    Returns
    -------
    loss : Tensor of shape ()
        To be minimised. D: the weighted mean of ``t max(0, 1 - z) + (1 - t) max(0, 1 + z)``;
        I: that of ``-z``. 0 where all weights are 0.

    Notes
    -----
    The hinge version of [2]_, section 4, after [1]_. For t of 0 or 1 it is ``max(0, 1 - y z)``
    with ``y = 2 t - 1``; for a share between it is the expectation over both classes. I's loss
    has no lower bound of its own; D's loss keeps it in check.

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
    target = _check_target(logits, target, network)
    if network == "inpainter":
        return _mean(-logits, weight)
    missed = target * functional.relu(1 - logits) + (1 - target) * functional.relu(1 + logits)
    return _mean(missed, weight)


def eq3(
    logits: Tensor, target: Tensor | None, weight: Tensor | None, *, network: str = "detector"
) -> Tensor:
    """Compute Eq. 3 as printed: the logarithm of the squared norm of a whole map.

    Parameters
    ----------
    logits, target, weight, network : Tensor, Tensor or None, Tensor or None, str
        As in `bce`.

    Returns
    -------
    loss : Tensor of shape ()
        To be minimised. D: the mean over images of ``-log(sum_i w_i p_i^2)``, where
        ``p = t O + (1 - t) (1 - O)`` is the probability that D gives to the target; I: that of
        ``log(sum_i w_i (1 - O_i)^2)``. Images of weight 0 are left out; 0 where all are.

    Notes
    -----
    Eq. 3 of [1]_ is ``min_I max_D E[log ||D(X)||^2] + E[log ||Y - D(I(X~))||^2]`` with Y all
    ones: this loss, for maps that are entirely regular or irregular. As printed, D is not bounded
    and minimises its loss by growing; here it is ``O = sigmoid(z)``, and 1e-12 is added within
    the logarithm.

    It is not the default because the norm is that of the whole map. A map with one region at 1
    and 120 at 0 has the same loss as one with all regions at 1/11. The gradient for the logit of
    a regular region is ``2 O_i^2 (1 - O_i) / sum O^2``, which vanishes for a region that D misses
    altogether, where `bce` gives ``(1 - O_i) / n``. I's gradient vanishes where D rejects the
    output of I.

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
    target = _check_target(logits, target, network)
    weights = torch.ones_like(logits) if weight is None else weight
    doubt = torch.sigmoid(-logits)  # 1 - O, without cancellation
    if network == "inpainter":
        sign, part = 1.0, doubt
    else:
        sign, part = -1.0, target * torch.sigmoid(logits) + (1 - target) * doubt
    logarithms = sign * torch.log((weights * part**2).sum((1, 2)) + LOG_GUARD)
    counts = (weights.sum((1, 2)) > 0).to(logits.dtype)
    return (counts * logarithms).sum() / counts.sum().clamp(min=1)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "bce": bce,
    "lsgan": lsgan,
    "hinge": hinge,
    "eq3": eq3,
}
"""The losses by the names that the estimator accepts."""


def _check_target(logits: Tensor, target: Tensor | None, network: str) -> Tensor:
    """Return the target of D's regularity for the loss of this network."""
    if network not in NETWORKS:
        raise ValueError(f"network must be 'detector' or 'inpainter'. Got {network!r}.")
    if network == "inpainter":
        return torch.ones_like(logits)
    if target is None:
        raise ValueError("target must be a tensor when network='detector'. Got None.")
    return target


def _mean(each: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return each.mean()
    return (weight * each).sum() / weight.sum().clamp(min=torch.finfo(each.dtype).tiny)
