"""The report's charts, as SVG that takes the page's own color for text and lines, light or dark."""

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
INK = "#010203"  # stands for the page's color, and is replaced by it
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "popcorn", "font.size": 10, "axes.grid": True, "grid.alpha": 0.25,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "legend.framealpha": 0,
    # thirty curves can be told apart
    "axes.prop_cycle": cycler(linestyle=["-", "--", "-."]) * cycler(color=matplotlib.color_sequences["tab10"]),
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK),
}  # fmt: skip


def svg(draw: Callable[[Axes], None], width: float = 7.5, height: float = 4.2) -> str:
    """What `draw` puts on a pair of axes, as an <svg> element."""
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def as_written(name: str) -> str:
    """The name for matplotlib, which else takes a dollar for mathematics and hides a name that begins with an underscore."""
    return f"{' ' if name.startswith('_') else ''}{name}".replace("$", r"\$")


def legend_beside(axes: Axes) -> None:
    """Where it hides no curve."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def accuracy_against_time(points: list[tuple[str, float, float, float]]) -> str:
    """points: as `draw_accuracy_against_time` has them."""
    return svg(lambda axes: draw_accuracy_against_time(axes, points), width=9.5)


def draw_accuracy_against_time(axes: Axes, points: list[tuple[str, float, float, float]]) -> None:
    """points: name, seconds, accuracy and the half-width of its interval."""
    names, seconds, accuracy, half = zip(*points, strict=True)
    minutes = np.array(seconds) / 60
    for where in zip(minutes, accuracy, half, strict=True):
        axes.errorbar(*where[:2], yerr=where[2], fmt="o", capsize=3)
    axes.set(xscale="log", xlabel="minutes of one run", ylabel="test accuracy, 95% interval")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.1)
    axes.figure.draw_without_rendering()  # the layout must be known before the names can give way to each other
    texts = [axes.text(*place, size=8) for place in zip(minutes, accuracy, map(as_written, names), strict=True)]
    adjust_text(texts, minutes, accuracy, ax=axes, arrowprops={"arrowstyle": "-", "alpha": 0.4}, iter_lim=500)


def learning_curves(curves: dict[str, list[float]]) -> str:
    """curves: by name, the validation's ROC AUC after each epoch."""

    def draw(axes: Axes) -> None:
        for name, values in curves.items():
            axes.plot(range(1, len(values) + 1), values, marker="o", label=as_written(name))
        axes.set(xlabel="epoch", ylabel="validation ROC AUC")
        axes.xaxis.get_major_locator().set_params(integer=True)
        legend_beside(axes)

    return svg(draw, width=9.5)


def reliability(curves: dict[str, tuple[np.ndarray, np.ndarray]], title: str) -> str:
    """curves: by name, mean probability and share of positive reviews in each bin."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], linestyle=":", color=INK)
        for name, (said, happened) in curves.items():
            axes.plot(said, happened, marker="o", label=as_written(name))
        axes.set(xlabel="probability of positive", ylabel="share of positive reviews", title=title)
        legend_beside(axes)

    return svg(draw, width=7.5, height=4.8)


def accuracy_by_length(edges: list[int], curves: dict[str, list[float]]) -> str:
    """edges: words, one more than bins; curves: by name, the accuracy in each bin."""

    def draw(axes: Axes) -> None:
        names = [f"{low}-{high}" for low, high in itertools.pairwise(edges)]
        for name, values in curves.items():
            axes.plot(names, values, marker="o", label=as_written(name))
        axes.set(xlabel="words of the review", ylabel="test accuracy")
        legend_beside(axes)

    return svg(draw, width=9.5)


def agreement(names: list[str], share: np.ndarray) -> str:
    """share (models, models): of the test reviews on which two models say the same."""

    def draw(axes: Axes) -> None:
        least = min(share.min(), 0.99)  # where all agree, there is no scale
        axes.imshow(share, cmap="viridis", vmin=least, vmax=1)
        shown = [as_written(name) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), shown)
        axes.grid(visible=False)
        middle = (least + 1) / 2
        for row, column in np.ndindex(share.shape):
            color = "white" if share[row, column] < middle else "black"
            axes.text(column, row, f"{share[row, column]:.3f}".removeprefix("0"), ha="center", va="center", color=color, size=8)

    return svg(draw, height=max(4.0, 0.5 * len(names) + 1.5))
