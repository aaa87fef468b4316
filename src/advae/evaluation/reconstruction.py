"""How well x → z → x' gives x back: in nats under the likelihood, and as images are compared.

The codes are draws from q(z|x), one an image. The images that come back are the decoder's means (an implicit decoder
gives a draw), not clamped, and are compared with the stored image without observation noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from advae.errors import NoDensityError
from advae.evaluation.estimate import Estimate, Estimates, Kind, Remark, from_images, mean_and_error
from advae.evaluation.eval_data import Observed, Part, likelihood, scored_as
from advae.evaluation.pca import Plane, principal_plane
from advae.evaluation.resumable import ALONE, Work
from advae.metrics.image_similarity import BEST, K1, K2, PEAK, SIGMA, psnr, squared_error, ssim, window_width
from advae.model import LatentModel, representative

Found = dict[str, Tensor]
CODE = "a draw from q(z|x)"
PCA = "pca-"


def reconstruction(model: LatentModel, observed: Observed, work: Work = ALONE) -> Estimate:
    """``−E_q[log p(x|z)]`` in nats, one code an image.

    Raises:
        NoDensityError: the decoder is implicit.
    """
    found = _measured(model, observed, work)
    if "nats" not in found:
        raise NoDensityError("an implicit decoder has no reconstruction error in nats", remedy="see rmse")
    return _nats(model, observed, found)


def rmse(model: LatentModel, observed: Observed, work: Work = ALONE) -> Estimate:
    """Root of the mean squared error a pixel.

    In grey levels, 0 to 255 (in the data's own units where they are no images). The standard error is that of
    the mean squared error carried through the root: se(√m) = se(m) / (2 √m). What is given for each image is
    its own root; the figure is the root of the mean of their squares.
    """
    protocol = observed.protocol(code=CODE, per="pixel")
    return _root(observed, "rmse", _measured(model, observed, work)["mse"], "error", protocol)


def reconstructions(model: LatentModel, observed: Observed, *, work: Work = ALONE) -> Estimates:
    """All that can be said of the images that come back, from one pass, and the same for a linear code.

    Returns:
        Root mean squared error; in nats where the decoder has a density; for grey levels the peak
        signal-to-noise ratio, and for images the structural similarity. Beside each the same for as many
        principal components of the training images as the code has dimensions, called ``rmse (PCA-32)``.
    """
    plane = principal_plane(observed.data, model.latent, model.device, work)
    found = _measured(model, observed, work, plane)
    figures = _compared(observed, found, "", "error", {"code": CODE})
    if "nats" in found:
        figures.append(_nats(model, observed, found))
    k = len(plane.basis)
    fitted = {
        "code": f"{k} principal components",
        "fitted": f"{plane.images} training images, {plane.method}",
    }
    given = {**fitted, "input": "the stored image"}
    linear = {name.removeprefix(PCA): value for name, value in found.items() if name.startswith(PCA)}
    figures.add(_compared(observed, linear, f" (PCA-{k})", "yardstick", given))
    if k == len(plane.mean):
        text = (
            f"{k} principal components give back images of {k} numbers exactly: they are no yardstick here."
        )
        figures.remarks.append(Remark(f"rmse (PCA-{k})", text))
    return figures


@torch.no_grad()
def _measured(model: LatentModel, observed: Observed, work: Work, plane: Plane | None = None) -> Found:
    """What the comparisons find for each image; of the plane's images under names that begin with PCA."""
    protocol, bins = observed.data.protocol, observed.scores_bins(model)
    compare = _comparison(observed)

    def compute(part: Part) -> Found:
        p = model.decode(model.encode(part.x).sample())
        grey = protocol.raw_grey(part.raw)
        found = compare(protocol.to_grey(representative(p)), grey)
        if p.has_log_prob:
            found["nats"] = -likelihood(p, bins).log_prob(part.x)
        if plane is not None:
            found |= {PCA + name: value for name, value in compare(plane.project(grey), grey).items()}
        return found

    return observed.map(model.device, compute, label="reconstruction", work=work)


def _comparison(observed: Observed) -> Callable[[Tensor, Tensor], Found]:
    """How two examples of these data are compared: PSNR needs grey levels, and SSIM images of them."""
    levels = observed.data.protocol.unit == "grey levels"
    pictures = levels and len(observed.data.x_shape) == 3

    def compare(a: Tensor, b: Tensor) -> Found:
        found = {"mse": squared_error(a, b)}
        if levels:
            found["psnr"] = psnr(found["mse"])
        if pictures:
            found["ssim"] = ssim(a, b)
        return found

    return compare


def _compared(
    observed: Observed, found: Mapping[str, Tensor], of: str, kind: Kind, code: Mapping[str, Any]
) -> Estimates:
    """The comparisons as estimates whose names end with ``of``; a score where the error is an error."""
    score: Kind = "score" if kind == "error" else kind
    root = _root(observed, f"rmse{of}", found["mse"], kind, observed.protocol(**code, per="pixel"))
    figures = Estimates([root])
    if "psnr" in found:
        more = {"peak": PEAK, "mean": "of each image's PSNR", "at most": BEST}
        said = observed.protocol(**code, **more)
        figures.append(from_images(found["psnr"], f"PSNR{of}", score, "dB", said, "reconstruction"))
    if "ssim" in found:
        width = window_width(observed.data.x_shape)
        window = {"window": f"{width} × {width}, Gaussian of {SIGMA}", "borders": "left out"}
        said = observed.protocol(**code, **window, K1=K1, K2=K2, L=PEAK)
        figures.append(from_images(found["ssim"], f"SSIM{of}", score, "", said, "reconstruction"))
    return figures


def _root(observed: Observed, name: str, mse: Tensor, kind: Kind, protocol: dict[str, Any]) -> Estimate:
    mean, error = mean_and_error(mse)
    root = math.sqrt(mean)
    return Estimate(
        name,
        root,
        error / (2 * root) if root else 0.0,
        kind,
        observed.data.protocol.unit,
        len(mse),
        protocol,
        "reconstruction",
        each={"value": mse.sqrt()},
    )


def _nats(model: LatentModel, observed: Observed, found: Found) -> Estimate:
    protocol = observed.protocol(code=CODE, likelihood=scored_as(observed.scores_bins(model)))
    return from_images(found["nats"], "reconstruction", "error", "nats", protocol, "reconstruction")
