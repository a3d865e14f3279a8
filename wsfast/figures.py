"""The report's figures, each drawn from a StudyResult: matplotlib's objects, no global state, SVG or PNG text."""

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from .chains import TITLES

if TYPE_CHECKING:
    from .studying import StudyResult

COLOURS = {"chain": "#0072B2", "chain_unit": "#009E73", "raw": "#D55E00"}  # Okabe and Ito, safe for colour-blind eyes
MARKS = {"chain": "o", "chain_unit": "s", "raw": "^"}
PIXELS = 900  # of the heat map
EMBEDDED = 600  # networks in the embedding


def _axes(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, columns, **options)).tolist()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def png(figure: Figure) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}">'


def accuracy(result: "StudyResult") -> str:
    """Accuracy of every chain and feature with its exact interval, one panel a protocol."""
    cells = result.numbers["cells"]
    panels = list(dict.fromkeys((c["protocol"], c["classifier"]) for c in cells))
    figure, axes = _axes(10, 3.6, len(panels), sharey=True)
    for ax, (protocol, classifier) in zip(axes, panels, strict=True):
        own = [c for c in cells if (c["protocol"], c["classifier"]) == (protocol, classifier)]
        for k, features in enumerate(TITLES):
            family = [c for c in own if c["features"] == features]
            _intervals(
                ax,
                [c["chain"] + 0.18 * (k - 1) for c in family],
                family,
                COLOURS[features],
                MARKS[features],
                TITLES[features],
            )
        ax.axhline(100 * (1 - result.numbers["alpha"]), color="#555", lw=1, ls="--")
        ax.axhline(100 * own[0]["chance"], color="#555", lw=1, ls=":")
        ax.set(title=f"{protocol} ({classifier})", xlabel="chain", ylim=(-3, 103))
        ax.set_xticks(sorted({c["chain"] for c in own}))
    axes[0].set_ylabel("accuracy, %")
    axes[0].legend(loc="center left", frameon=False, fontsize=9)
    return svg(figure)


def _intervals(ax: Any, x: list[float], cells: list[dict[str, Any]], colour: str, mark: str, label: str) -> None:
    y = np.array([100 * c["accuracy"] for c in cells])
    low, high = np.array([c["ci95"] for c in cells]).T * 100
    ax.errorbar(x, y, yerr=[y - low, high - y], color=colour, marker=mark, ms=6, ls="none", capsize=3, label=label)


def controls(result: "StudyResult") -> str:
    """The controls' accuracies, each with its chance line."""
    names = list(dict.fromkeys(c["control"] for c in result.numbers["controls"]))
    figure, axes = _axes(7, 2.8, len(names))
    for ax, name in zip(axes, names, strict=True):
        own = [c for c in result.numbers["controls"] if c["control"] == name]
        _intervals(ax, [c["chain"] for c in own], own, "#CC79A7", "D", name)
        chance = 100 * own[0]["chance"]
        ax.axhline(chance, color="#555", lw=1, ls=":")
        top = max(100 * c["ci95"][1] for c in own)
        ax.set(title=f"{name} (chance {chance:.1f} %)", xlabel="chain", ylim=(0, max(2 * chance, 1.2 * top)))
        ax.set_xticks([c["chain"] for c in own])
    axes[0].set_ylabel("accuracy, %")
    return svg(figure)


def heat_map(result: "StudyResult") -> str:
    """Cosine similarity of all networks, ordered by task, averaged over blocks where there are many."""
    order = np.argsort(result.labels, kind="stable")
    k = result.kernel[np.ix_(order, order)]
    off_diagonal = k[~np.eye(len(k), dtype=bool)]
    low, high = np.percentile(off_diagonal, [1, 99.5])
    block = -(-len(k) // PIXELS)
    if block > 1:
        starts = np.arange(0, len(k), block)
        counts = np.diff([*starts, len(k)])
        k = np.add.reduceat(np.add.reduceat(k, starts, axis=0), starts, axis=1) / np.outer(counts, counts)
    figure, (ax,) = _axes(7, 6)
    image = ax.imshow(
        k, cmap="magma", vmin=low, vmax=high, extent=(0, len(order), len(order), 0), interpolation="nearest"
    )
    figure.colorbar(image, ax=ax, label="cosine of chain Grams", shrink=0.8)
    ax.set(xlabel="network, ordered by task", ylabel="network, ordered by task")
    return png(figure)


def cmc(result: "StudyResult") -> str:
    """Share of queries with a right answer among the first k, k = 1..20, one panel a chain."""
    chains = sorted({chain for _, chain, _ in result.curves})
    figure, axes = _axes(10, 3.2, len(chains), sharey=True)
    for ax, chain in zip(axes, chains, strict=True):
        for (features, own, classifier), curve in result.curves.items():
            if own == chain:
                ranks = np.arange(1, min(20, len(curve)) + 1)
                style = "--" if classifier == "cosine" else "-"
                ax.plot(
                    ranks, 100 * curve[:20], style, color=COLOURS[features], label=f"{TITLES[features]}, {classifier}"
                )
        ax.set(title=f"chain {chain}", xlabel="rank k", ylim=(-3, 103))
        ax.set_xticks([1, 5, 10, 15, 20])
    axes[0].set_ylabel("queries answered, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return svg(figure)


def embedding(result: "StudyResult") -> str:
    """t-SNE of the first tasks' networks from their cosine distances, coloured by task; "" for very small sets."""
    from sklearn.manifold import TSNE

    tasks, counts = np.unique(result.labels, return_counts=True)
    shown = tasks[: max(1, int((np.cumsum(counts) <= EMBEDDED).sum()))]
    rows = np.flatnonzero(np.isin(result.labels, shown))[:EMBEDDED]
    if len(rows) < 10:
        return ""
    distance = np.sqrt(np.maximum(0, 2 - 2 * result.kernel[np.ix_(rows, rows)]))
    np.fill_diagonal(distance, 0)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    place = TSNE(metric="precomputed", init="random", random_state=0, perplexity=perplexity).fit_transform(distance)
    figure, (ax,) = _axes(7, 5)
    ax.scatter(*place.T, c=np.searchsorted(shown, result.labels[rows]), cmap="turbo", s=14, alpha=0.8, linewidths=0)
    for task in shown:
        ax.annotate(str(task), np.median(place[result.labels[rows] == task], axis=0), fontsize=8, ha="center")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(f"{len(rows)} networks of {len(shown)} tasks (numbers)", fontsize=10)
    return png(figure)


def training(result: "StudyResult") -> str:
    """Training loss over epochs: median and 5-95 % of the networks; "" where none was recorded."""
    if result.loss.size == 0:
        return ""
    low, middle, high = np.percentile(result.loss, [5, 50, 95], axis=0)
    epochs = np.arange(1, result.loss.shape[1] + 1)
    figure, (ax,) = _axes(7, 2.8)
    ax.fill_between(epochs, low, high, color="#0072B2", alpha=0.2, lw=0, label="5-95 % of networks")
    ax.plot(epochs, middle, color="#0072B2", marker="o", ms=3, label="median")
    ax.set(yscale="log", xlabel="epoch", ylabel="training loss")
    ax.legend(frameon=False)
    return svg(figure)
