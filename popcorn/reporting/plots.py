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
INK = "#010203"  # placeholder for the page's text color
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "popcorn", "font.size": 10, "axes.grid": True, "grid.alpha": 0.25,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "legend.framealpha": 0,
    # thirty different curves
    "axes.prop_cycle": cycler(linestyle=["-", "--", "-."]) * cycler(color=matplotlib.color_sequences["tab10"]),
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK),
}  # fmt: skip


def svg(draw: Callable[[Axes], None], width: float = 7.5, height: float = 4.2) -> str:
    """The drawing of `draw` on axes, as an <svg> element."""
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def as_written(name: str) -> str:
    """The name for matplotlib, without special meaning of dollars and a leading underscore."""
    return f"{' ' if name.startswith('_') else ''}{name}".replace("$", r"\$")


def legend_beside(axes: Axes) -> None:
    """Puts the legend next to the axes, where it hides no curve."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def accuracy_against_time(points: list[tuple[str, float, float, float]]) -> str:
    """points: the same as for `draw_accuracy_against_time`."""
    return svg(lambda axes: draw_accuracy_against_time(axes, points), width=9.5)


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
        legend_beside(axes)

    return svg(draw, width=9.5)


def reliability(curves: dict[str, tuple[np.ndarray, np.ndarray]], title: str) -> str:
    """curves: by name, mean predicted probability and fraction of positive reviews in each bin."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], linestyle=":", color=INK)
        for name, (prob_pred, prob_true) in curves.items():
            axes.plot(prob_pred, prob_true, marker="o", label=as_written(name))
        axes.set(xlabel="mean predicted probability", ylabel="fraction of positive reviews", title=title)
        legend_beside(axes)

    return svg(draw, width=7.5, height=4.8)


def accuracy_by_length(edges: list[int], curves: dict[str, list[float]]) -> str:
    """edges: limits of the bins, in words; curves: by name, the accuracy in each bin."""

    def draw(axes: Axes) -> None:
        names = [f"{low}-{high}" for low, high in itertools.pairwise(edges)]
        for name, values in curves.items():
            axes.plot(names, values, marker="o", label=as_written(name))
        axes.set(xlabel="words of the review", ylabel="test accuracy")
        legend_beside(axes)

    return svg(draw, width=9.5)


def agreement(names: list[str], fraction: np.ndarray) -> str:
    """fraction (models, models): test reviews with the same prediction by two models."""

    def draw(axes: Axes) -> None:
        lowest = min(fraction.min(), 0.99)  # a scale needs two different values
        axes.imshow(fraction, cmap="viridis", vmin=lowest, vmax=1)
        shown = [as_written(name) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), shown)
        axes.grid(visible=False)
        middle = (lowest + 1) / 2
        for row, column in np.ndindex(fraction.shape):
            color = "white" if fraction[row, column] < middle else "black"
            text = f"{fraction[row, column]:.3f}".removeprefix("0")
            axes.text(column, row, text, ha="center", va="center", color=color, size=8)

    return svg(draw, height=max(4.0, 0.5 * len(names) + 1.5))
