"""A measurement of convergent learning as a text table and as one self-contained HTML page."""

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import RULE, _axes, _png, _svg
from .report import STYLE

if TYPE_CHECKING:
    from .converging import Convergence

COLUMNS = {
    "semi_r": "best r",
    "match_r": "one-to-one r",
    "random_r": "random r",
    "r_agreement": "agree",
    "semi_mi": "best MI",
    "match_mi": "one-to-one MI",
    "random_mi": "random MI",
    "mi_agreement": "agree (MI)",
}
COLOURS = {
    "same task": "#0072B2",
    "other task": "#D55E00",
    "untrained": "#009E73",
    "shuffled inputs": "#CC79A7",
}  # Okabe and Ito, as figures.py
ABOUT = (
    "<p>A unit's activation is what the next layer sees. <i>Best</i>: the partner with the highest score, which "
    "several units may share. <i>One-to-one</i>: the matching of the largest sum. <i>Agree</i>: the share of units for "
    "which the two are the same. <i>Random</i>: the mean over all pairs of units, what an arbitrary order would give. "
    "All as mean over pairs of networks (standard deviation); r is Pearson's, MI mutual information of 8 bins in nats. "
    "Units that answer the same to every input (dead) are left out. Pairs share networks, so they are not "
    "independent.</p><p>Controls: <i>untrained</i>, the same networks before their first step, shows what the inputs "
    "alone make alike; <i>shuffled inputs</i>, one network answering in another order, shows what the search for "
    "partners finds by chance, and by what units answer at a place of an image whatever is there. Method: Li et al., "
    "Convergent Learning, ICLR 2016.</p>"
)


def table(n: dict[str, Any]) -> str:
    """converge.json as text: a row for every layer and kind of pairs."""
    head = f"{'layer':<8} {'pairs':<16} {'n':>5} {'dead %':>6} " + " ".join(f"{t:>13}" for t in COLUMNS.values())
    lines = [f"{n['networks']} x {n['network']} on {n['data']}, {n['diverged']} diverged and left out", "", head]
    for layer in dict.fromkeys(row["layer"] for row in n["rows"]):
        for row in (r for r in n["rows"] if r["layer"] == layer):
            values = " ".join(f"{_number(row.get(c)):>13}" for c in COLUMNS)
            lines.append(f"{layer:<8} {row['pairs']:<16} {row['n']:>5} {100 * row['dead']:>6.1f} {values}")
    return "\n".join([*lines, "", "means over pairs; agree: share of units whose two partners are the same"])


def _number(value: dict[str, float] | None) -> str:
    return "-" if value is None else f"{value['mean']:.3f}"


def converge_html(result: "Convergence") -> str:
    """The whole page: curves, sparse prediction, cluster map, every number, provenance. Loads nothing."""
    n = result.numbers
    title = f"{n['networks']:,} × {escape(n['network'])} on {escape(n['data'])}"
    parts = [
        f"<h1>Convergent learning of {title}</h1>",
        "<h2>Does a unit have a counterpart?</h2>",
        f"<div class=wide>{curves(result)}</div>",
        "<p class=note>Correlations of the units of one network with their partners in another, sorted, averaged over "
        "pairs of networks. Solid: one-to-one. Dashed: the best partner.</p>",
        "<h2>How many units does it take to predict one?</h2>",
        f"<div class=wide>{paths(result)}</div>",
        "<p class=note>Share of a unit's variance that a sparse linear prediction from the other network leaves, on "
        "inputs it was not fitted to, over the number of units it uses. Each mark is a penalty.</p>",
        "<h2>Groups of units</h2>",
        cluster_map(result) or "<p>Too few units are alive to be clustered.</p>",
        "<p class=note>Correlations of all units of one pair of networks, ordered by spectral cluster.</p>",
        "<h2>All numbers</h2>",
        _rows(n["rows"]),
        "<h2>How to read this</h2>",
        ABOUT,
        "<h2>Provenance</h2><table class=about><tbody>",
        *(f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in n.items() if k != "rows"),
        "</tbody></table>",
    ]
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{title}</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _rows(rows: list[dict[str, Any]]) -> str:
    titles = ["layer", "pairs", "n", "units", "inputs", "dead %", *COLUMNS.values()]
    titles += ["clusters", "units in one", "balance", "one-sided %", "r within"]
    body = ""
    for row in rows:
        cells = [row["layer"], row["pairs"], row["n"], row["units"], row["inputs"], f"{100 * row['dead']:.1f}"]
        cells += [_spread(row.get(c)) for c in COLUMNS]
        if found := row.get("clusters"):
            cells += [f"{found['count']:g}", _spread(found["units"]), _spread(found["balance"])]
            cells += [f"{100 * found['one_sided']:.0f}", _spread(found["r"])]
        body += "<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in cells) + "</tr>"
    head = "".join(f"<th>{t}</th>" for t in titles)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _spread(value: dict[str, float] | None) -> str:
    return "-" if value is None else f"{value['mean']:.3f} ({value['sd']:.3f})"


def curves(result: "Convergence") -> str:
    """Sorted correlations of matched units, a panel a layer."""
    layers = list(dict.fromkeys(layer for _, layer in result.curves))
    figure, axes = _axes(max(5, 2.5 * len(layers)), 3.2, 1, len(layers), sharey=True)
    for ax, layer in zip(axes[0], layers, strict=True):
        for kind, colour in COLOURS.items():
            if (kind, layer) in result.curves:
                semi, match = result.curves[kind, layer]
                units = np.arange(1, len(match) + 1)
                ax.plot(units, match, color=colour, label=kind)
                ax.plot(units, semi, "--", color=colour, lw=1)
        ax.axhline(0, ls=":", **RULE)
        ax.set(title=layer, xlabel="units, sorted", ylim=(None, 1.02))
    axes[0, 0].set_ylabel("correlation with partner")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return _svg(figure, "curves", "Correlations of matched units, sorted, for every layer and kind of pairs")


def paths(result: "Convergence") -> str:
    """Unexplained variance over the number of units used, a panel a layer."""
    rows = [row for row in result.numbers["rows"] if "path" in row]
    layers = list(dict.fromkeys(row["layer"] for row in result.numbers["rows"]))
    figure, axes = _axes(max(5, 2.5 * len(layers)), 3.2, 1, len(layers), sharey=True)
    for ax, layer in zip(axes[0], layers, strict=True):
        for row in (r for r in rows if r["layer"] == layer):
            look = {"color": COLOURS[row["pairs"]], "marker": "o", "ms": 3, "label": row["pairs"]}
            ax.plot(row["path"]["nonzeros"], np.minimum(row["path"]["loss"], 1.5), **look)
        ax.axhline(1, ls=":", **RULE)
        ax.set(title=layer, xlabel="units used", ylim=(0, 1.5))
    axes[0, 0].set_ylabel("variance left")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return _svg(figure, "paths", "Variance left by sparse prediction over the number of units used")


def cluster_map(result: "Convergence") -> str:
    """Correlations of one pair of networks, units in the order of their clusters; "" where there were none."""
    if result.map is None:
        return ""
    layer, r, own, other = result.map
    rows, columns = (np.argsort(labels, kind="stable") for labels in (own, other))
    figure, axes = _axes(6, 5)
    ax = axes[0, 0]
    shape = (0, len(columns), len(rows), 0)
    image = ax.imshow(r[np.ix_(rows, columns)], cmap="RdBu_r", vmin=-1, vmax=1, extent=shape, interpolation="nearest")
    figure.colorbar(image, ax=ax, label="correlation", shrink=0.8)
    for labels, order, line in ((own, rows, ax.axhline), (other, columns, ax.axvline)):
        for edge in np.flatnonzero(np.diff(labels[order])) + 1:
            line(edge, color="black", lw=0.4)
    ax.set(title=f"{layer}, two networks of one task", xlabel="units of one network", ylabel="units of the other")
    return _png(figure, "Correlations of the units of two networks, ordered by cluster")
