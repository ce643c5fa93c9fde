"""The parameters of gradient ascent: pixels, or frequencies of decorrelated colours.

Images are between black (0) and white (1), so that no step leaves their range. Frequencies are weighted by 1 / f, like
natural images, and colours by the root of their covariance, so that large shapes and colours change as easily as
fine patterns (Olah, Mordvintsev & Schubert 2017, Distill, "Feature visualization"). Each image has its own parameters,
and steps are element-wise, so that an image does not depend on the others of its batch.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

START = 0.1
"""Standard deviation of the initial noise, as a share of the range from black to white."""
FEWEST_PIXELS = 8
"""Side of an image below which pixels are used instead of frequencies."""
REACH = 2.0
"""Change of a pixel's logit when all frequencies change by one."""


class Parametrisation:
    """Images (n, channels, height, width) in 0 … 1 as parameters.

    Attributes
    ----------
    parameters : of the optimiser
    """

    def __init__(
        self,
        kind: Literal["pixels", "fourier"],
        noise: npt.NDArray[np.float32],
        mean: npt.NDArray[np.float32],
        root: npt.NDArray[np.float64],
        device: torch.device,
    ) -> None:
        """Start from ``noise`` (n, channels, height, width) about ``mean`` (channels,) in 0 … 1."""
        self.kind = "pixels" if min(noise.shape[2:]) < FEWEST_PIXELS else kind
        self._size = (int(noise.shape[2]), int(noise.shape[3]))
        frequencies = np.hypot(np.fft.fftfreq(self._size[0])[:, None], np.fft.rfftfreq(self._size[1])[None, :])
        self._frequencies = torch.from_numpy(frequencies.astype(np.float32)).to(device)
        start = torch.from_numpy(noise).to(device)
        level = torch.from_numpy(mean).to(device)[:, None, None]
        if self.kind == "pixels":
            self.parameters = (level + START * start).clamp(0, 1).requires_grad_()
            return
        weight = 1 / np.maximum(frequencies, 1 / max(self._size))
        weight *= REACH / np.sqrt((weight**2).mean())
        self._weight = torch.from_numpy(weight.astype(np.float32)).to(device)
        self._root = torch.from_numpy(root.astype(np.float32)).to(device)
        self._level = torch.logit(level.clamp(0.02, 0.98))
        spectrum = torch.fft.rfft2(start, norm="ortho") * (START / REACH)
        self.parameters = torch.view_as_real(spectrum).contiguous().requires_grad_()

    def images(self) -> torch.Tensor:
        """The images of the current parameters."""
        if self.kind == "pixels":
            return self.parameters
        spectrum = torch.view_as_complex(self.parameters) * self._weight
        plain = torch.fft.irfft2(spectrum, s=self._size, norm="ortho")
        return torch.sigmoid(torch.einsum("ck,nkyx->ncyx", self._root, plain) + self._level)

    @torch.no_grad()
    def settle(self, blur: float) -> None:
        """After a step: smooth by a Gaussian of ``blur`` pixels, and clip to the range of images."""
        if blur > 0:
            factor = torch.exp(-2 * (np.pi * blur * self._frequencies) ** 2)
            if self.kind == "pixels":
                smooth = torch.fft.irfft2(torch.fft.rfft2(self.parameters) * factor, s=self._size)
                self.parameters.copy_(smooth)
            else:
                self.parameters.mul_(factor[:, :, None])
        if self.kind == "pixels":
            self.parameters.clamp_(0, 1)
