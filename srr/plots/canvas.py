"""The figure that a picture is drawn into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srr._array.extras import need

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def canvas(figure: Figure | None, size: tuple[float, float], *, managed: bool = False) -> Figure:
    """The figure given, or a new one of a size in inches; a managed one is shown by ``pyplot.show``."""
    if figure is not None:
        return figure
    need("matplotlib", by="a plot of srr")
    if managed:
        from matplotlib import pyplot

        return pyplot.figure(figsize=size, layout="constrained")
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")
