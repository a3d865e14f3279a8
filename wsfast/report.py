"""A study as one self-contained HTML page."""

import json
from html import escape
from typing import TYPE_CHECKING, Any

from . import figures
from .chains import TITLES

if TYPE_CHECKING:
    from .studying import StudyResult

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1000px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em } p.note { color: #555; font-size: .9em }
.badge { display: inline-block; padding: 0 .6em; border-radius: .3em; color: #fff; font-weight: 600 }
.yes { background: #00704f } .no { background: #a84300 }
.facts { display: flex; flex-wrap: wrap; gap: 1em 2.5em; margin: 1.5em 0 } .facts b { display: block; font-size: 1.4em }
svg, img { max-width: 100%; height: auto } .wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .85em }
th, td { padding: .2em .7em; text-align: right; white-space: nowrap } th { border-bottom: 1px solid #999 }
td:nth-child(-n+3), th:nth-child(-n+3) { text-align: left }
pre { background: #f5f5f5; padding: 1em; overflow-x: auto; font-size: .8em }
"""
COLUMNS = {
    "features": "features",
    "protocol": "protocol",
    "control": "control",
    "classifier": "classifier",
    "chain": "chain",
    "errors": "errors",
    "n": "n",
    "accuracy": "accuracy %",
    "ci95": "exact 95 %",
    "wilson95": "Wilson 95 %",
    "chance": "chance %",
    "p_error_ge_alpha": "p (error ≥ α)",
    "p_holm": "p, Holm",
    "established": "established",
    "paper_rule": "paper's rule",
    "p_chance": "p (chance)",
    "p_permutation": "p (permuted)",
    "permuted_accuracy": "permuted %",
    "rank5": "rank-5 %",
    "rank10": "rank-10 %",
    "map": "mAP %",
}
PERCENT = {"accuracy", "chance", "permuted_accuracy", "rank5", "rank10", "map"}


def report_html(result: "StudyResult") -> str:
    """The whole page: verdict, headline numbers, figures, every cell, provenance. Loads nothing from elsewhere."""
    n = result.numbers
    title = f"{n['networks']:,} × {escape(n['network'])} on {escape(n['data'])}"
    parts = [
        f"<h1>Weight similarity of {title}</h1>",
        _verdict(n),
        _facts(n),
        "<h2>Which task was a network trained on?</h2>",
        f"<div class=wide>{figures.accuracy(result)}</div>",
        "<p class=note>Share of networks whose task is found (classification: new networks of known tasks; retrieval: "
        "nearest network among tasks the classifier never saw), with exact 95 % intervals. Dashed: 1 − α. Dotted: "
        "chance.</p>",
        "<h2>Controls</h2>",
        f"<div class=wide>{figures.controls(result)}</div>",
        "<p class=note>A/A: one task's networks split at random in two must not be told apart. Untrained: initial "
        "weights carry no task. Both belong on the dotted line.</p>",
        f"<h2>Similarity of all networks, chain {result.kernel_chain}</h2>",
        figures.heat_map(result),
        "<h2>Retrieval</h2>",
        f"<div class=wide>{figures.cmc(result)}</div>",
        f"<h2>Map of networks, chain {result.kernel_chain}</h2>",
        figures.embedding(result) or "<p>Too few networks to draw.</p>",
        "<h2>Training</h2>",
        figures.training(result) or "<p>No training curves: these networks were not trained here.</p>",
        "<h2>All numbers</h2>",
        _table(n["cells"]),
        _table(n["controls"]),
        "<h2>How to read this</h2>",
        "<p>α is the size of error the paper tolerates; its rule compares an error count with it and controls no error "
        "rate, so the exact test stands beside it. Tasks that can be told apart do not prove that the solutions of one "
        "task are equivalent; the A/A control tests that directly. Chain 1 is the Gram of the first layer, which also "
        "follows the covariance of the task's inputs.</p>",
        "<h2>Provenance</h2>",
        f"<pre>{escape(json.dumps({k: v for k, v in n.items() if k not in ('cells', 'controls')}, indent=1))}</pre>",
    ]
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{title}</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _verdict(n: dict[str, Any]) -> str:
    lines = []
    for protocol in ("classification", "retrieval"):
        v = n["verdict"][protocol]
        badge = _badge(v["established"], "established", "not established")
        claim = f"an error below {n['alpha']:g} in every chain at once, p = {v['p']:.2g}"
        rule = f"the paper's rule says <b>{v['paper_rule']}</b>"
        lines.append(f"<p>{badge} <b>{protocol}</b>: {claim}; {rule}.</p>")
    fine = n["verdict"]["controls_at_chance"]
    said = (
        "as they must be" if fine else "so something other than training separates the tasks; do not trust the verdict"
    )
    lines.append(f"<p>{_badge(fine, 'at chance', 'not at chance')} <b>controls</b>: {said}.</p>")
    return "".join(lines)


def _badge(good: bool, yes: str, no: str) -> str:
    return f"<span class='badge {'yes' if good else 'no'}'>{yes if good else no}</span>"


def _facts(n: dict[str, Any]) -> str:
    facts = {
        "networks": f"{n['networks']:,}",
        "tasks × repeats": f"{n['tasks']} × {n['repeats']}",
        "diverged": n["diverged"],
    }
    if n["train_accuracy"]:
        facts["train accuracy, mean (min)"] = "{mean:.1%} ({min:.1%})".format(**n["train_accuracy"])
    if n["timing"]["networks_per_s"]:
        facts["networks / s"] = f"{n['timing']['networks_per_s']:,.0f}"
    facts |= {"seconds in all": f"{n['timing']['total_s']:.0f}", "classifier": n["classifier"], "backend": n["backend"]}
    return "<div class=facts>" + "".join(f"<div>{k}<b>{escape(str(v))}</b></div>" for k, v in facts.items()) + "</div>"


def _table(rows: list[dict[str, Any]]) -> str:
    columns = [c for c in COLUMNS if any(c in row for row in rows)]
    head = "".join(f"<th>{COLUMNS[c]}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{_value(c, row.get(c))}</td>" for c in columns) + "</tr>" for row in rows)
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div><br>"


def _value(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column in PERCENT:
        return f"{100 * value:.1f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return f"{100 * value[0]:.1f} – {100 * value[1]:.1f}"
    if isinstance(value, float):
        return f"{value:.2g}"
    return escape(TITLES.get(value, str(value)))
