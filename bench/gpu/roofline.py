"""The roofline: what each contender reached beside what memory and the matrix units allow."""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from bench.gpu.model import rate

COLOURS = {  # Okabe and Ito, safe for colour-blind eyes
    "ours": "#D55E00",
    "bmm": "#0072B2",
    "padded": "#56B4E9",
    "vmap": "#009E73",
    "jax": "#CC79A7",
    "grouped": "#F0E442",
    "graph": "#777777",
    "loop": "#BBBBBB",
}
MARKS = {"tf32x3": "o", "fp32": "o", "tf32": "^", "bf16": "s"}
RULE = "#999999"


def _lines(ax: Axes, ceilings: dict[str, Any], left: float, right: float) -> None:
    x = np.geomspace(left, right, 50)
    slope = x * ceilings["copy"] / 1e3
    tops = {p: rate(ceilings, p) for p in ("bf16", "tf32", "tf32x3", "fp32")}
    ax.plot(x, np.minimum(slope, max(tops.values())), color="#333333", lw=1.4, zorder=1)
    for name, top in tops.items():
        start = max(left, 1e3 * top / ceilings["copy"])
        ax.plot([start, right], [top, top], color=RULE, lw=0.9, zorder=1)
        ax.annotate(f"{name} {top:.0f}", (right, top), (4, 0), textcoords="offset points", va="center", fontsize=7.5)
    near = 300 * ceilings["bf16"] / ceilings["copy"]  # beside the slope's upper half
    said = f"copy {ceilings['copy'] / 1e3:.2f} TB/s"
    place = near, near * ceilings["copy"] / 1e3
    ax.annotate(said, place, (-7, 3), textcoords="offset points", ha="right", fontsize=7.5)


def _spread(wanted: np.ndarray, gap: float) -> np.ndarray:
    """The sorted heights moved apart until neighbours are `gap` apart: each crowd is spread around its middle."""
    crowds = [[w] for w in wanted]
    middle = [float(w) for w in wanted]
    k = 1
    while k < len(crowds):
        if middle[k] - middle[k - 1] < gap * (len(crowds[k]) + len(crowds[k - 1])) / 2:
            crowds[k - 1] += crowds.pop(k)
            middle.pop(k)
            middle[k - 1] = float(np.mean(crowds[k - 1]))
            k = max(k - 1, 1)
        else:
            k += 1
    return np.concatenate(
        [m + gap * (np.arange(len(c)) - (len(c) - 1) / 2) for m, c in zip(middle, crowds, strict=True)]
    )


def _label(ax: Axes, points: list[tuple[float, float, str, str]], column: float) -> None:
    """Names in a column right of the points, moved apart, each joined to its point."""
    points = sorted(points, key=lambda p: p[1])
    low, high = np.log(ax.get_ylim())
    heights = np.exp(_spread(np.log([p[1] for p in points]), (high - low) / 27))
    for (x, y, name, colour), height in zip(points, heights, strict=True):
        ax.plot([x, column], [y, height], color=colour, lw=0.6, alpha=0.7, zorder=2)
        text = ax.annotate(
            name, (column, height), (3, 0), textcoords="offset points", va="center", fontsize=7.5, zorder=5
        )
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        text.set_fontweight("bold" if colour == COLOURS["ours"] else "normal")


def _panel(ax: Axes, rows: list[dict[str, Any]], ceilings: dict[str, Any], title: str) -> None:
    points = []
    for r in rows:
        x, y = r["flop"] / r["bytes"], r["tflops"]
        ours = r["family"] == "ours"
        ax.scatter(x, y, s=58 if ours else 34, marker=MARKS[r["precision"]], color=COLOURS[r["family"]],
                   edgecolor="white", lw=0.7, zorder=4 if ours else 3)  # fmt: skip
        points.append((x, y, f"{r['contender']}, {r['precision']}", COLOURS[r["family"]]))
    left, right = min(p[0] for p in points) / 2.5, 600.0
    ax.set(xscale="log", yscale="log", xlim=(left, right), xlabel="FLOP per byte of weights, by formula")
    ax.set_ylim(min(p[1] for p in points) / 2, max(ceilings["bf16"], *(p[1] for p in points)) * 1.8)
    _lines(ax, ceilings, left, right)
    _label(ax, points, max(p[0] for p in points) * 1.6)
    ax.set_title(title, loc="left", fontsize=9.5)


def draw(run: dict[str, Any], path: Path) -> None:
    """The case measured first, and of the others the one with the most rows."""
    measured = [r for r in run["rows"] if "median" in r]
    groups = [list(g) for _, g in groupby(measured, lambda r: r["case"])]
    shown = [groups[0], max(groups[1:], key=len, default=[])]
    shown = [rows for rows in shown if rows]
    figure = Figure(figsize=(6.6 * len(shown), 5.2), layout="constrained")
    for ax, rows in zip(figure.subplots(1, len(shown), squeeze=False).flat, shown, strict=True):
        ax.spines[["top", "right"]].set_visible(False)
        _panel(ax, rows, run["ceilings"], rows[0]["size"])
        ax.set_ylabel("TFLOP/s" if ax.get_subplotspec().is_first_col() else "")
    figure.suptitle(f"{run['gpu']['name']}: reached and allowed", x=0.01, ha="left", fontsize=11)
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "wsfast"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
