"""Pictures of generalized energy-based models: energies over the plane, and what KALE sees of two laws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from ebmzoo.data import Dataset
from ebmzoo.fields import FieldError, positive
from ebmzoo.figures import POINT, Figure, panels
from ebmzoo.models import Model
from ebmzoo.recipes import Trained
from ebmzoo.store import Store
from ebmzoo_gebm.divergences import DivergenceCurves, GaussianPair, Scene, record, witness_curves
from ebmzoo_gebm.kernel import GaussianKernel
from ebmzoo_gebm.particles import KALEFlow, MMDFlow

if TYPE_CHECKING:
    from ebmzoo.figures import Canvas


@dataclass(frozen=True)
class EnergyMap(Figure):
    r"""What energies say of the plane: :math:`-E`, with the data, and with what the base makes.

    Arguments:
        name: The name of the file, without its ending.
        title: What stands above the picture.
        data: The data set.
        models: The models, one for each panel.
        labels: What stands above each panel.
        reach: How far the plane is shown from the origin.
        count: How many points of data and base are shown.
    """

    name: str
    title: str
    data: Dataset
    models: tuple[Trained, ...]
    labels: tuple[str, ...]
    reach: float = 2.0
    count: int = 500

    def __post_init__(self) -> None:
        positive(self, "reach", "count")
        if len(self.labels) != len(self.models):
            raise FieldError(self, "labels", f"one for each of the {len(self.models)} models")

    def draw(self, store: Store) -> Canvas:
        """Draws the panels in one row."""
        canvas, axes = panels(1, len(self.models), self.title, size=3.6)
        for axis, trained, label in zip(axes[0], self.models, self.labels, strict=True):
            model = store.get(trained)
            self._shade(axis, model)
            base = trained.rng(f"figure {self.name}", store.runtime.torch_device())
            self._points(axis, model.decoder(model.prior.draw(self.count, base)).cpu(), "white", "base")
            self._points(axis, self.data.load("test")[: self.count], "red", "data")
            axis.set_title(label, fontsize=10)
        axes[0][0].legend(fontsize=8, loc="upper right", markerscale=4, framealpha=0.6)
        return canvas

    @torch.no_grad()
    def _shade(self, axis: Any, model: Model) -> None:
        line = torch.linspace(-self.reach, self.reach, 120, device=model.prior.anchor.device)
        value = -model.energy(torch.cartesian_prod(line, line)).view(120, 120).T.cpu()
        top = float(value.max())
        extent = (-self.reach, self.reach, -self.reach, self.reach)
        axis.imshow(
            value.numpy(),
            origin="lower",
            extent=extent,
            vmin=top - 8,
            vmax=top,
            cmap="viridis",
            aspect="equal",
        )

    def _points(self, axis: Any, points: Tensor, color: str, label: str) -> None:
        axis.scatter(points[:, 0].numpy(), points[:, 1].numpy(), color=color, label=label, **POINT)


@dataclass(frozen=True)
class Divergences(Figure):
    r"""KALE, MMD and KL of :math:`\mathcal{N}(s, r^2)` from :math:`\mathcal{N}(0, 1)`, against s and r.

    KALE lies between half the squared discrepancy and KL.

    Arguments:
        name: The name of the file, without its ending.
        title: What stands above the picture.
        bandwidth: The standard deviation of the Gaussian kernel.
        penalties: The penalties :math:`\lambda`.
        farthest: The largest distance of the means.
        widest: The largest ratio of the standard deviations; the smallest is its inverse.
        points: How many points a curve has.
    """

    name: str
    title: str
    bandwidth: float = 1.0
    penalties: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0)
    farthest: float = 6.0
    widest: float = 4.0
    points: int = 25

    def __post_init__(self) -> None:
        positive(self, "bandwidth", "farthest", "widest", "points")

    def draw(self, store: Store) -> Canvas:
        """Computes and draws both panels."""
        del store
        pair = GaussianPair(GaussianKernel(self.bandwidth), self.penalties)
        distances = torch.linspace(0.0, self.farthest, self.points).tolist()
        ratios = torch.logspace(-1, 1, self.points, base=self.widest).tolist()
        canvas, axes = panels(1, 2, self.title, size=4.2)
        self._panel(axes[0][0], pair.over_means(distances), "distance of the means")
        self._panel(axes[0][1], pair.over_widths(ratios), "ratio of the standard deviations")
        axes[0][1].set_xscale("log", base=2)
        axes[0][0].legend(fontsize=8)
        return canvas

    def _panel(self, axis: Any, curves: DivergenceCurves, label: str) -> None:
        where = curves.where.numpy()
        axis.plot(where, curves.kl.numpy(), color="black", label="KL")
        for penalty, values in zip(curves.penalties, curves.kale, strict=True):
            axis.plot(where, values.numpy(), label=f"KALE, λ = {penalty:g}")
        axis.plot(where, curves.mmd2.numpy() / 2, "--", color="grey", label="MMD²/2")
        axis.set_ylim(0, 1.05 * float(curves.kale.max()))
        axis.set_xlabel(label)
        axis.set_ylabel("divergence [nats]")


@dataclass(frozen=True)
class ModeCollapse(Figure):
    r"""KALE and its witness for a base that has both modes of the data, and for one that has lost one.

    The data are :math:`\frac12 \mathcal{N}(-m, 1) + \frac12 \mathcal{N}(m, 1)`. The kernel is Gaussian.

    Arguments:
        name: The name of the file, without its ending.
        title: What stands above the picture.
        modes: The distance :math:`m` of the modes from zero.
        count: The size of both samples.
        bandwidth: The standard deviation of the kernel.
        penalty: The penalty :math:`\lambda`.
    """

    name: str
    title: str
    modes: float = 2.5
    count: int = 300
    bandwidth: float = 1.0
    penalty: float = 0.1

    def __post_init__(self) -> None:
        positive(self, "modes", "count", "bandwidth", "penalty")

    def draw(self, store: Store) -> Canvas:
        """Computes and draws both panels."""
        del store
        rng = Generator().manual_seed(0)
        sides = torch.randint(2, (2, self.count), generator=rng) * 2.0 - 1
        noise = torch.randn(2, self.count, generator=rng)
        data, both = self.modes * sides + noise
        line = torch.linspace(-self.modes - 4, self.modes + 4, 200)
        kernel, bases = GaussianKernel(self.bandwidth), (both, self.modes + noise[1])
        found = [witness_curves(data, base, line, kernel, (self.penalty,)) for base in bases]
        reach = 1.05 * max(float(curves.kale.abs().max()) for curves in found)
        canvas, axes = panels(1, 2, self.title, size=4.0)
        for axis, base, curves, label in zip(
            axes[0], bases, found, ("both modes", "one mode lost"), strict=True
        ):
            for points, name, color in ((data, "data", "tab:red"), (base, "base", "tab:blue")):
                axis.hist(points.numpy(), bins=40, density=True, alpha=0.4, color=color, label=name)
            axis.set_title(f"{label}: KALE {float(curves.values[0]):.2f}", fontsize=10)
            witness = axis.twinx()
            witness.plot(line.numpy(), curves.kale[0].numpy(), color="black")
            witness.axhline(0.0, color="0.6", linewidth=0.8, linestyle=":")
            witness.set_ylim(-reach, reach)  # one scale for both, or noise looks like a mode
        axes[0][0].legend(fontsize=8)
        witness.set_ylabel(f"witness, λ = {self.penalty:g}, kernel of width {self.bandwidth:g}")
        return canvas


@dataclass(frozen=True)
class ParticleFlows(Figure):
    """Particles on their way to a sample, down MMD and down KALE.

    Arguments:
        name: The name of the file, without its ending.
        title: What stands above the picture.
        scene: Where particles begin, and where they go.
        flows: The flows, one for each line of panels.
        labels: What stands beside each line.
        shots: After how many steps the particles are shown.
    """

    name: str
    title: str
    scene: Scene
    flows: tuple[MMDFlow | KALEFlow, ...]
    labels: tuple[str, ...]
    shots: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.flows):
            raise FieldError(self, "labels", f"one for each of the {len(self.flows)} flows")

    def draw(self, store: Store) -> Canvas:
        """Lets the particles flow and draws them."""
        del store
        canvas, axes = panels(len(self.flows), len(self.shots), self.title, size=2.4)
        for line, flow, label in zip(axes, self.flows, self.labels, strict=True):
            path = record(self.scene, flow, self.shots, Generator().manual_seed(0))
            for axis, step, points, value in zip(
                line, path.steps, path.positions, path.objective, strict=True
            ):
                axis.scatter(path.target[:, 0].numpy(), path.target[:, 1].numpy(), color="0.75", s=4)
                axis.scatter(points[:, 0].numpy(), points[:, 1].numpy(), color="tab:red", s=4)
                axis.set_title(f"step {step}: {float(value):.2g}", fontsize=9)
                axis.set_xticks([])
                axis.set_yticks([])
                axis.set_aspect("equal")
                self._show_target(axis, path.target)
            line[0].set_ylabel(label)
        return canvas

    def _show_target(self, axis: Any, target: Tensor) -> None:
        """Gives a panel the limits of the target, with a margin; particles that strayed are not seen."""
        low, high = target.min(0).values, target.max(0).values
        margin = 0.35 * float((high - low).max())
        axis.set_xlim(float(low[0]) - margin, float(high[0]) + margin)
        axis.set_ylim(float(low[1]) - margin, float(high[1]) + margin)
