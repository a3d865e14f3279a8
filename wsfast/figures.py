"""The report's figures, each drawn from a StudyResult: matplotlib's objects, no global state, SVG or PNG text."""

import base64
import io
import re
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from .table import TITLES

if TYPE_CHECKING:
    from .connecting import ConnectivityResult
    from .predicting import Metanetworks
    from .studying import StudyResult

# Okabe and Ito, safe for colour-blind eyes
COLOURS = {
    "chain": "#0072B2",
    "chain_unit": "#009E73",
    "chain_folded": "#E69F00",
    "raw": "#D55E00",
    "statistics": "#CC79A7",
}
MARKS = {"chain": "o", "chain_unit": "s", "chain_folded": "D", "raw": "^", "statistics": "v"}
WIDTHS = {
    "chain": 3.6,
    "chain_unit": 1.8,
    "chain_folded": 1.2,
    "raw": 1.2,
    "statistics": 1.2,
}  # equal curves lie on top of each other: the lower one is wider
PIXELS = 900  # of the heat map
SHOWN = 4 * PIXELS  # networks in the heat map
EMBEDDED = 600  # networks in the embedding
LINES = {"init": "from initialisation", "naive": "between networks", "aligned": "between aligned networks"}
RULE = {"color": "#555", "lw": 1, "zorder": 0}


def _axes(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure, name: str, says: str) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", out.getvalue(), flags=re.DOTALL)
    # matplotlib's ids are partly random and repeat from figure to figure; a page wants them unique, a rerun the same
    ids = {v: f"{name}-{i}" for i, v in enumerate(dict.fromkeys(re.findall(r' id="([^"]+)"', text)))}
    text = re.sub(r'( id="|href="#|url\(#)([^")]+)', lambda m: m[1] + ids[m[2]], text)
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(says)}"', 1)


def _png(figure: Figure, says: str) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130)
    return f'<img alt="{escape(says)}" src="data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}">'


def accuracy(result: "StudyResult") -> str:
    """Accuracy of every chain and feature with its exact interval: a column a protocol, the top enlarged above."""
    cells, alpha = result.numbers["cells"], result.numbers["alpha"]
    panels = list(dict.fromkeys((c["protocol"], c["classifier"]) for c in cells))
    titles = _titles(cells)
    figure, axes = _axes(10, 5.6, 2, len(panels), sharey="row", sharex="col", height_ratios=[1, 1.4])
    for column, (protocol, classifier) in zip(axes.T, panels, strict=True):
        own = [c for c in cells if (c["protocol"], c["classifier"]) == (protocol, classifier)]
        chance = 100 * max(c["chance"] for c in own)
        for ax in column:
            for k, features in enumerate(titles):
                family = [c for c in own if c["features"] == features]
                x = [c["chain"] + 0.18 * (k - (len(titles) - 1) / 2) for c in family]
                _splits(ax, x, family, COLOURS[features])
                _intervals(ax, x, family, COLOURS[features], MARKS[features], TITLES[features])
            ax.axhline(100 * (1 - alpha), ls="--", label="1 − α", **RULE)
            ax.axhline(chance, ls=":", label="chance", **RULE)
        column[0].set_title(f"{protocol} ({classifier})")
        column[1].set_xlabel("chain")
        column[1].set_xticks(sorted({c["chain"] for c in own}))
        column[1].margins(x=0.15)
    span = 300 * min(alpha, 1 / 3)
    axes[0, 0].set(ylim=(100 - span, 100 + span / 20), ylabel="accuracy, %\n(top enlarged)")
    axes[1, 0].set(ylim=(-3, 103), ylabel="accuracy, %")
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    return _svg(figure, "accuracy", "Accuracy of every chain and feature with exact 95 % intervals")


def _titles(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The titles of the features that rows are of."""
    return {features: TITLES[features] for features in dict.fromkeys(row["features"] for row in rows)}


def _splits(ax: Any, x: list[float], cells: list[dict[str, Any]], colour: str) -> None:
    """A broad bar from the worst to the best of the split seeds."""
    for at, cell in zip(x, cells, strict=True):
        if "split_seeds" in cell:
            low, high = (100 * cell["split_seeds"][end] for end in ("min", "max"))
            ax.vlines(at, low, high, color=colour, lw=9, alpha=0.3)


def _intervals(ax: Any, x: list[float], cells: list[dict[str, Any]], colour: str, mark: str, label: str) -> None:
    y = np.array([100 * c["accuracy"] for c in cells])
    low, high = np.array([c["ci95"] for c in cells]).T * 100
    reach = np.maximum(0, [y - low, high - y])  # an interval that ends in its own estimate may miss it by a rounding
    ax.errorbar(x, y, yerr=reach, color=colour, marker=mark, ms=6, ls="none", capsize=3, label=label)


def crossing(numbers: dict[str, Any]) -> str:
    """Accuracies of a cross-network validation, a panel a protocol and tested set: its own classifier, the other's."""
    cells = numbers["cells"]
    panels = list(dict.fromkeys((c["protocol"], c["tested_on"]) for c in cells))
    figure, axes = _axes(10, 3.2, 1, len(panels), sharey=True)
    for ax, (protocol, tested) in zip(axes[0], panels, strict=True):
        own = [c for c in cells if (c["protocol"], c["tested_on"]) == (protocol, tested)]
        for shift, within, look in ((-0.1, True, ("#0072B2", "o")), (0.1, False, ("#D55E00", "^"))):
            family = [c for c in own if (c["trained_on"] == tested) == within]
            label = "trained on the tested set" if within else "trained on the other"
            _intervals(ax, [c["chain"] + shift for c in family], family, *look, label)
        ax.axhline(100 * own[0]["chance"], ls=":", label="chance", **RULE)
        ax.set(title=f"{protocol}, {numbers[tested]['network']} ({tested})", xlabel="chain", ylim=(-3, 103))
        ax.set_xticks(sorted({c["chain"] for c in own}))
        ax.margins(x=0.15)
    axes[0, 0].set_ylabel("accuracy, %")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return _svg(figure, "cross", "Accuracy within and across two weight sets with exact 95 % intervals")


def barriers(result: "ConnectivityResult") -> str:
    """Loss and error along lines: median and 5-95 % of the pairs, a panel a split and measure, a colour a line."""
    panels = list(dict.fromkeys((row["split"], row["measure"]) for row in result.numbers["lines"]))
    figure, axes = _axes(10, 3.2, 1, len(panels))
    for ax, (split, measure) in zip(axes[0], panels, strict=True):
        for line, colour in (("init", "#999999"), ("naive", "#D55E00"), ("aligned", "#0072B2")):
            if (line, split, measure) in result.curves:
                curve = result.curves[line, split, measure]
                low, middle, high = np.percentile(curve[np.isfinite(curve).all(axis=1)], [5, 50, 95], axis=0)
                ax.fill_between(result.points, low, high, color=colour, alpha=0.2, lw=0)
                ax.plot(result.points, middle, color=colour, label=LINES[line])
        ax.set(title=f"{split} {measure}", xlabel="t", xlim=(0, 1))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return _svg(figure, "barriers", "Loss and error on straight lines between networks, median and 5-95 % of pairs")


def predictions(result: "Metanetworks") -> str:
    """What was predicted over what is, a row a protocol, a column a predictor."""
    rows = result.numbers["rows"]
    protocols, predictors = (list(dict.fromkeys(row[key] for row in rows)) for key in ("protocol", "predictor"))
    figure, axes = _axes(
        2.1 * len(predictors), 2.4 * len(protocols), len(protocols), len(predictors), sharex=True, sharey=True
    )
    for row in rows:
        ax = axes[protocols.index(row["protocol"]), predictors.index(row["predictor"])]
        truth, found = result.predictions[row["protocol"], row["predictor"]]
        ax.plot(truth, found, "o", ms=2, alpha=0.5, color="#0072B2", mew=0)
        ax.axline((truth.mean(), truth.mean()), slope=1, ls=":", **RULE)
        score = "-" if row["r2"] is None else f"{row['r2']:z.2f}"
        ax.set_title(f"{row['predictor']}\nR² {score}", fontsize=9)
    for ax, protocol in zip(axes[:, 0], protocols, strict=True):
        ax.set_ylabel(f"predicted, {protocol}")
    figure.supxlabel("target", fontsize=10)
    return _svg(figure, "predictions", "Predicted over true target of every tested network, for every predictor")


def reliability(n: dict[str, Any]) -> str:
    """Accuracy over confidence, a panel a model; a dot's area is the share of the test samples."""
    figure, axes = _axes(2.6 * len(n["rows"]), 2.8, 1, len(n["rows"]), sharex=True, sharey=True)
    for ax, row in zip(axes[0], n["rows"], strict=True):
        bins = row["reliability"]
        samples = np.array(bins["samples"])
        own = np.flatnonzero(samples)
        x, y = (np.array(bins[key], float)[own] for key in ("confidence", "accuracy"))
        ax.axline((0.5, 0.5), slope=1, ls=":", **RULE)
        ax.plot(x, y, color="#0072B2", lw=1)
        ax.scatter(x, y, s=10 + 200 * samples[own] / samples.sum(), color="#0072B2", alpha=0.6, lw=0)
        ax.set_title(f"{row['model']}\nECE {100 * row['ece']:.1f} %", fontsize=9)
        ax.set(xlabel="confidence", xlim=(0, 1.03), ylim=(0, 1.03))
    axes[0, 0].set_ylabel("accuracy")
    return _svg(figure, "reliability", "Accuracy over confidence of every model's predictions")


def controls(rows: list[dict[str, Any]], figure_name: str) -> str:
    """Accuracies of controls, a panel each with its chance line."""
    names = list(dict.fromkeys(c["control"] for c in rows))
    figure, axes = _axes(3.75 * max(2, len(names)), 2.8, 1, max(2, len(names)))
    for ax, name in zip(axes[0], names, strict=False):
        own = [c for c in rows if c["control"] == name]
        _intervals(ax, [c["chain"] for c in own], own, "#555", "D", name)
        chance = 100 * max(c["chance"] for c in own)
        ax.axhline(chance, ls=":", **RULE)
        top = max(100 * c["ci95"][1] for c in own)
        ax.set(title=f"{name} (chance {chance:.1f} %)", xlabel="chain", ylim=(0, min(103, max(2 * chance, 1.2 * top))))
        ax.set_xticks([c["chain"] for c in own])
        ax.margins(x=0.15)
    for ax in axes[0, len(names) :]:
        ax.set_visible(False)
    axes[0, 0].set_ylabel("accuracy, %")
    return _svg(figure, figure_name, f"Accuracy of {', '.join(names)} with exact 95 % intervals")


def distances(result: "StudyResult") -> str:
    """Cosine distances of pairs within and between tasks: median, half and nine tenths of them, a panel a feature."""
    rows = result.numbers["distances"]
    titles = _titles(rows)
    figure, axes = _axes(10, 2.9, 1, len(titles), sharex=True)
    for ax, (features, title) in zip(axes[0], titles.items(), strict=True):
        own = [d for d in rows if d["features"] == features]
        for shift, pairs, look in ((-0.14, "within", {"color": "#0072B2"}), (0.14, "between", {"color": "#E69F00"})):
            x = np.array([d["chain"] for d in own]) + shift
            low, lower, middle, upper, high = np.array([d[pairs] for d in own]).T
            ax.vlines(x, low, high, lw=1.2, **look)
            ax.vlines(x, lower, upper, lw=6, **look)
            mark = "o" if pairs == "within" else "D"
            ax.plot(x, middle, mark, ms=6, mfc="white", label=f"{pairs} tasks", **look)
        ax.set_title(title, fontsize=10)
        ax.set(xlabel="chain", xticks=[d["chain"] for d in own])
        ax.margins(x=0.15)
        ax.set_ylim(0, 1.05 * max(1e-9, ax.get_ylim()[1]))
    axes[0, 0].set_ylabel("1 − cosine")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return _svg(figure, "distances", "Cosine distances within and between tasks for every chain and feature")


def heat_map(result: "StudyResult") -> str:
    """Cosine similarity of networks, ordered by task, averaged over blocks where there are many.

    Of more than SHOWN networks evenly spaced ones are drawn.
    """
    order = np.argsort(result.labels, kind="stable")
    if len(order) > SHOWN:
        order = order[np.linspace(0, len(order) - 1, SHOWN).astype(int)]
    k = result.kernel[np.ix_(order, order)]
    low, high = np.percentile(k[~np.eye(len(k), dtype=bool)], [1, 99.5])
    block = -(-len(k) // PIXELS)
    if block > 1:
        starts = np.arange(0, len(k), block)
        counts = np.diff([*starts, len(k)])
        k = np.add.reduceat(np.add.reduceat(k, starts, axis=0), starts, axis=1) / np.outer(counts, counts)
    figure, axes = _axes(7.5, 6.4)
    ax = axes[0, 0]
    extent = (0, len(order), len(order), 0)
    image = ax.imshow(k, cmap="magma", vmin=low, vmax=high, extent=extent, interpolation="nearest")
    figure.colorbar(image, ax=ax, label="cosine of chain Grams", shrink=0.8, extend="both")
    edges = np.flatnonzero(np.diff(result.labels[order])) + 1
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(edges, minor=True)
        axis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(which="minor", length=2)
    if len(order) < len(result.labels):
        ax.set_title(f"{len(order):,} of {len(result.labels):,} networks", fontsize=10)
    if len(edges) < 100:  # more lines than that would cover what they mark
        ax.hlines(edges, 0, len(order), color="white", lw=0.3, alpha=0.5)
        ax.vlines(edges, 0, len(order), color="white", lw=0.3, alpha=0.5)
    ax.set(xlabel="network, ordered by task", ylabel="network, ordered by task")
    return _png(figure, "Heat map of the cosine similarity of all pairs of networks, ordered by task")


def cmc(result: "StudyResult") -> str:
    """Share of queries with a right answer among the first k, k = 1..20, one panel a chain."""
    chains = sorted({chain for _, chain, _ in result.curves})
    figure, axes = _axes(10, 3.4, 1, len(chains), sharey=True)
    for ax, chain in zip(axes[0], chains, strict=True):
        for (features, own, classifier), curve in result.curves.items():
            if own == chain:
                style = "--" if classifier == "cosine" else "-"
                label = f"{TITLES[features]}, {classifier}"
                look = {"color": COLOURS[features], "lw": WIDTHS[features], "label": label}
                ax.plot(np.arange(1, len(curve[:20]) + 1), 100 * curve[:20], style, **look)
        ax.set(title=f"chain {chain}", xlabel="rank k", ylim=(-3, 104))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes[0, 0].set_ylabel("queries answered, %")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return _svg(figure, "cmc", "Share of queries answered among the first k networks")


def embedding(result: "StudyResult") -> str:
    """t-SNE of the first tasks' networks from their cosine distances, coloured by task; "" for very small sets."""
    from sklearn.manifold import TSNE

    tasks, counts = np.unique(result.labels, return_counts=True)
    shown = tasks[: max(1, int((np.cumsum(counts) <= EMBEDDED).sum()))]
    rows = np.flatnonzero(np.isin(result.labels, shown))[:EMBEDDED]
    if len(rows) < 10:
        return ""
    labels, kernel = result.labels[rows], result.kernel[np.ix_(rows, rows)]
    distance = np.sqrt(np.maximum(0, 2 - 2 * kernel))
    np.fill_diagonal(distance, 0)
    centred = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    start = 1e-4 * np.sqrt(len(rows)) * np.linalg.eigh(centred)[1][:, :-3:-1]  # the principal axes, as is usual
    # At this size the exact method is several times faster than Barnes-Hut's tree on clusters this tight.
    options = {"method": "exact", "max_iter": 400, "perplexity": min(30.0, (len(rows) - 1) / 3), "random_state": 0}
    place = TSNE(metric="precomputed", init=start.astype(np.float32), **options).fit_transform(distance)
    figure, axes = _axes(7.5, 5)
    ax = axes[0, 0]
    colours = np.linspace(0, 0.95, len(shown))
    for i, task in enumerate(shown):
        own = place[labels == task]
        look = {"marker": "os^Dv"[i % 5], "vmin": 0, "vmax": 1, "cmap": "viridis", "linewidths": 0}
        ax.scatter(*own.T, c=np.full(len(own), colours[i]), s=20, alpha=0.8, **look)
    for task in shown:
        middle = np.median(place[labels == task], axis=0)
        outline = [withStroke(linewidth=2.5, foreground="white")]
        ax.annotate(str(task), middle, fontsize=9, ha="center", va="center", weight="bold", path_effects=outline)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(f"{len(rows)} networks of {len(shown)} tasks (numbers)", fontsize=10)
    return _png(figure, "t-SNE map of networks, coloured by task")


def training(result: "StudyResult") -> str:
    """Training loss over epochs: median and 5-95 % of the networks; "" where none was recorded."""
    if result.loss.size == 0:
        return ""
    loss = np.maximum(result.loss, np.finfo(np.float32).tiny)  # a loss of exactly zero has no place on a log axis
    low, middle, high = np.percentile(loss, [5, 50, 95], axis=0)
    epochs = np.arange(1, loss.shape[1] + 1)
    figure, axes = _axes(7.5, 3)
    ax = axes[0, 0]
    ax.fill_between(epochs, low, high, color="#0072B2", alpha=0.2, lw=0, label="5-95 % of networks")
    ax.plot(epochs, middle, color="#0072B2", marker="o", ms=3, label="median")
    ax.set(yscale="log", xlabel="epoch", ylabel="training loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return _svg(figure, "training", "Training loss over epochs, median and 5-95 % of networks")
