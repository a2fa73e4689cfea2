"""The report's charts as SVG, in the page's own colors, light or dark."""

import io
import itertools
from collections.abc import Callable

import numpy as np

from popcorn.utils.packages import needs

with needs("matplotlib", "a chart"):
    import matplotlib
    from cycler import cycler

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.axes import Axes
with needs("adjustText", "a chart"):
    from adjustText import adjust_text
WIDTH = 12  # inches, as wide as the page
INK = "#010203"  # placeholder for the page's text color
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "popcorn", "font.size": 10, "axes.grid": True, "grid.alpha": 0.25,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "legend.framealpha": 0,
    # thirty different curves
    "axes.prop_cycle": cycler(linestyle=["-", "--", "-."]) * cycler(color=matplotlib.color_sequences["tab10"]),
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK),
}  # fmt: skip


def svg(draw: Callable[..., None], panels: int = 1, height: float = 5.0) -> str:
    """The drawing of `draw` on that many axes side by side, as an <svg> element."""
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(1, panels, figsize=(WIDTH, height), layout="constrained", squeeze=False)
        draw(*axes[0])
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def as_written(name: str) -> str:
    """The name for matplotlib, without special meaning of dollars and a leading underscore."""
    return f"{' ' if name.startswith('_') else ''}{name}".replace("$", r"\$")


def legend_below(axes: Axes) -> None:
    """Puts the legend below all axes, where it hides no curve and takes no width."""
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)))


def accuracy_against_time(points: list[tuple[str, float, float, float]]) -> str:
    """points: the same as for `draw_accuracy_against_time`."""
    return svg(lambda axes: draw_accuracy_against_time(axes, points), height=6)


def draw_accuracy_against_time(axes: Axes, points: list[tuple[str, float, float, float]]) -> None:
    """points: name, seconds, accuracy and half-width of its interval."""
    names, seconds, accuracy, half_widths = zip(*points, strict=True)
    minutes = np.array(seconds) / 60
    for x, y, half_width in zip(minutes, accuracy, half_widths, strict=True):
        axes.errorbar(x, y, yerr=half_width, fmt="o", capsize=3)
    axes.set(xscale="log", xlabel="minutes of one run", ylabel="test accuracy, 95% interval")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.1)
    axes.figure.draw_without_rendering()  # the layout must be final before the names are moved apart
    texts = [axes.text(*position, size=8) for position in zip(minutes, accuracy, map(as_written, names), strict=True)]
    adjust_text(texts, minutes, accuracy, ax=axes, arrowprops={"arrowstyle": "-", "alpha": 0.4}, iter_lim=500)


def learning_curves(curves: dict[str, list[float]]) -> str:
    """curves: by name, the validation ROC AUC after each epoch."""

    def draw(axes: Axes) -> None:
        for name, values in curves.items():
            axes.plot(range(1, len(values) + 1), values, marker="o", label=as_written(name))
        axes.set(xlabel="epoch", ylabel="validation ROC AUC")
        axes.xaxis.get_major_locator().set_params(integer=True)
        legend_below(axes)

    return svg(draw)


def reliability(panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]) -> str:
    """panels: by title, then by name, mean predicted probability and fraction of positive reviews in each bin.

    The first panel has all names.
    """

    def draw(*every: Axes) -> None:
        names = next(iter(panels.values()))
        for axes, (title, curves) in zip(every, panels.items(), strict=True):
            axes.plot([0, 1], [0, 1], linestyle=":", color=INK)
            for name in names:  # a missing curve is empty, so that a name has one color in all panels
                axes.plot(*curves.get(name, ([], [])), marker="o", label=as_written(name))
            axes.set(xlabel="mean predicted probability", ylabel="fraction of positive reviews", title=title)
        legend_below(every[0])

    return svg(draw, panels=len(panels), height=6)


def accuracy_by_length(edges: list[int], curves: dict[str, list[float]]) -> str:
    """edges: limits of the bins, in words; curves: by name, the accuracy in each bin."""

    def draw(axes: Axes) -> None:
        names = [f"{low}-{high}" for low, high in itertools.pairwise(edges)]
        for name, values in curves.items():
            axes.plot(names, values, marker="o", label=as_written(name))
        axes.set(xlabel="words of the review", ylabel="test accuracy")
        legend_below(axes)

    return svg(draw)
