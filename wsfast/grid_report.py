"""The grid as a text table, a heat map and one self-contained HTML page."""

from html import escape
from typing import Any

import numpy as np

from .figures import _axes, _svg
from .grid_features import TITLES
from .report import STYLE
from .table import interval, percent

PROTOCOLS = ("classification", "retrieval")
BADGES = {"confirmed": "yes", "refuted": "no", "not decided": "open"}  # classes of STYLE; it leaves "open" plain
ABOUT = (
    "<p>Classification: 60 % of every task's networks train a classifier, the others are tested. Retrieval: the "
    "nearest network among tasks that the classifier never saw. Raw, aligned and sorted are the weights of the "
    "chain's layers end to end, without biases; aligned: every network's units reordered by weight matching to those "
    "of the set's first network; sorted: by the norm of a unit's incoming weights. Fixed entries of asymmetric "
    "networks are equal in all networks of a set: the first four rows see zeros in their places, chains multiply them "
    "with the others. The units of sigma-asymmetric networks are reordered together with their F, which is no "
    "feature; as no reordering of weights alone keeps their function, they have no aligned barrier. Shuffled raw "
    "weights still have what no order changes, such as the sum over units of the weights from each "
    "input.</p><p>Barrier: the test loss in the middle of the straight line between two networks of a task, less the "
    "mean of its ends; Student's interval over tasks. Intervals of accuracies are exact; those of differences hold at "
    "least 95 % (Bonferroni over two exact ones); Kendall's tau by resampling tasks. Networks that share a task, or a "
    "column's fixed weights, are not independent, which no interval of an accuracy accounts for. Columns differ in "
    "more than symmetry: see their test accuracy.</p>"
)


def table(n: dict[str, Any]) -> str:
    """grid.json as text: a row for every feature and protocol, a column for every kind of networks."""
    names = [c["name"] for c in n["columns"]]
    lines = [f"{n['tasks']} tasks of {n['data']} x {n['repeats']} networks of width {n['width']}, chain {n['chain']}"]
    for shuffled in (False, True):
        lines += ["", _row("units in a random order" if shuffled else "as trained", "", names)]
        for features, title in TITLES.items():
            for protocol in PROTOCOLS:
                own = _own(n, features, protocol, shuffled)
                said = [f"{percent(c['accuracy'])} {interval(c['ci95'])}" for c in own]
                lines.append(_row(title, protocol, said))
    chances = [percent(_own(n, "raw", protocol, False)[0]["chance"]) for protocol in PROTOCOLS]
    lines += ["", _row("midpoint barrier", "naive", [_barrier(c, "naive") for c in n["columns"]])]
    lines.append(_row("", "aligned", [_barrier(c, "aligned") for c in n["columns"]]))
    lines.append(_row("test accuracy", "", [percent(c["test_accuracy"]) for c in n["columns"]]))
    lines.append(_row("diverged", "", [f"{c['diverged']} of {c['networks']}" for c in n["columns"]]))
    lines += ["", f"accuracy in % [exact 95 % interval]; chance: classification {chances[0]}, retrieval {chances[1]}"]
    lines += ["", "expected before the run"]
    return "\n".join(lines + [f"  {e['verdict']:<12} {e['says']}: {_said(e)}" for e in n["expectations"]])


def _row(title: str, protocol: str, values: list[str]) -> str:
    return f"{title:<28} {protocol:<15}" + "".join(f"{v:>22}" for v in values)


def _own(n: dict[str, Any], features: str, protocol: str, shuffled: bool) -> list[dict[str, Any]]:
    """A row of the grid, in the order of its columns."""
    wanted = (features, protocol, shuffled)
    return [c for c in n["cells"] if (c["features"], c["protocol"], c["shuffled"]) == wanted]


def _barrier(column: dict[str, Any], line: str) -> str:
    found = column["barrier"][line]
    return "-" if found is None else "{:z.2f} [{:z.2f}, {:z.2f}]".format(found["mean"], *found["ci95"])


def _said(e: dict[str, Any]) -> str:
    return "{} {:z.3f} [{:z.3f}, {:z.3f}]".format(e["quantity"], e["value"], *e["ci95"])


def grid_html(n: dict[str, Any]) -> str:
    """The whole page: expectations, heat map, every number, provenance. Loads nothing."""
    title = f"Features × networks: {n['tasks']} tasks of {escape(n['data'])}"
    parts = [
        f"<h1>{title}</h1>",
        "<h2>Expected before the run</h2>",
        _expectations(n["expectations"]),
        "<h2>How often is a network's task found?</h2>",
        f"<div class=wide>{heat_map(n)}</div>",
        "<p class=note>Accuracy in %, with its exact 95 % interval. Below each name: the midpoint barrier, as the "
        "networks came and aligned. In every second map each network's hidden units are in a random order.</p>",
        "<h2>All numbers</h2>",
        f"<div class=wide><pre>{escape(table(n))}</pre></div>",
        "<h2>How to read this</h2>",
        ABOUT,
        "<h2>Provenance</h2><table class=about><tbody>",
        *(
            f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>"
            for k, v in n.items()
            if k not in ("cells", "columns", "expectations")
        ),
        "</tbody></table>",
    ]
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{title}</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _expectations(rows: list[dict[str, Any]]) -> str:
    body = ""
    for e in rows:
        badge = f"<span class='badge {BADGES[e['verdict']]}'>{e['verdict']}</span>"
        body += f"<tr><td>{badge}</td><td>{escape(e['says'])}</td><td>{escape(_said(e))}</td></tr>"
    return f"<div class=wide><table><tbody>{body}</tbody></table></div>"


def heat_map(n: dict[str, Any]) -> str:
    """Accuracies of every cell: a panel a protocol, as trained and with shuffled units."""
    figure, axes = _axes(10, 14, 4, 1)
    names = [f"{c['name']}\n{_barrier(c, 'naive')}\n{_barrier(c, 'aligned')}" for c in n["columns"]]
    panels = [(protocol, shuffled) for protocol in PROTOCOLS for shuffled in (False, True)]
    for ax, (protocol, shuffled) in zip(axes.flat, panels, strict=True):
        cells = [_own(n, features, protocol, shuffled) for features in TITLES]
        shares = 100 * np.array([[c["accuracy"] for c in own] for own in cells])
        image = ax.imshow(shares, cmap="viridis", vmin=0, vmax=100, aspect="auto")
        for (i, j), share in np.ndenumerate(shares):
            text = f"{share:.1f}\n{interval(cells[i][j]['ci95'])}"
            ax.text(j, i, text, ha="center", va="center", color="black" if share > 60 else "white", fontsize=8)
        ax.set_xticks(range(len(names)), names, fontsize=8)
        ax.set_yticks(range(len(TITLES)), TITLES.values(), fontsize=9)
        ax.set_title(f"{protocol}, {'units in a random order' if shuffled else 'as trained'}", fontsize=10)
        ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="accuracy, %", location="bottom", shrink=0.5, aspect=40)
    return _svg(figure, "grid", "Accuracy of every feature on every kind of networks, as trained and shuffled")
