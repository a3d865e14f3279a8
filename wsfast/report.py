"""A study as one self-contained HTML page."""

from html import escape
from typing import TYPE_CHECKING, Any

from . import figures
from .table import ENOUGH_TASKS, TITLES, TWO_TRAINED, lacking

if TYPE_CHECKING:
    from .studying import StudyResult

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1000px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em } p.note { color: #555; font-size: .9em }
.badge { display: inline-block; padding: 0 .6em; border-radius: .3em; color: #fff; font-weight: 600 }
.yes { background: #00704f } .no { background: #a84300 }
.facts { display: flex; flex-wrap: wrap; gap: 1em 2.5em; margin: 1.5em 0 } .facts b { display: block; font-size: 1.4em }
svg, img { max-width: 100%; height: auto } .wide { overflow-x: auto } .wide svg { min-width: 640px }
table { border-collapse: collapse; font-size: .75em }
th, td { padding: .2em .5em; text-align: right; white-space: nowrap } th { border-bottom: 1px solid #999 }
td:nth-child(-n+3), th:nth-child(-n+3) { text-align: left } tbody tr:nth-child(even) { background: #f5f5f5 }
.about { font-size: .85em } .about td:last-child { white-space: normal; overflow-wrap: anywhere }
@page { size: landscape; margin: 12mm }
@media print { body { font-size: 11px } table { font-size: 7px } .badge { color: #000; border: 1px solid } }
"""
COLUMNS = {
    "features": "features",
    "protocol": "protocol",
    "control": "control",
    "classifier": "classifier",
    "chain": "chain",
    "errors": "errors / n",
    "accuracy": "accuracy %",
    "ci95": "exact 95 %",
    "published": "published %",
    "bootstrap95": "by task 95 %",
    "split_seeds": "splits, mean (min – max) %",
    "wilson95": "Wilson 95 %",
    "chance": "chance %",
    "p_error_ge_alpha": "p (error ≥ α)",
    "p_holm": "p, Holm",
    "established": "established",
    "n_to_establish": "n needed",
    "paper_rule": "paper's rule",
    "p_chance": "p (chance)",
    "p_two_sided": "p (≠ chance)",
    "margin": "margin, points",
    "tasks_left_out": "tasks left out",
    "train_accuracy": "train accuracy %",
    "p_permutation": "p (permuted)",
    "permuted_accuracy": "permuted %",
    "pseudo_f": "pseudo-F",
    "r2": "R² %",
    "r2_chance": "R² by chance %",
    "p": "p (permuted)",
    "within": "1 − cosine within, 5 – 50 – 95 %",
    "between": "between, 5 – 50 – 95 %",
    "rank5": "rank-5 %",
    "rank10": "rank-10 %",
    "map": "mAP %",
}
PERCENT = {
    "accuracy",
    "published",
    "chance",
    "permuted_accuracy",
    "rank5",
    "rank10",
    "map",
    "margin",
    "r2",
    "r2_chance",
}
CONTROLS = {
    "A/A": "A/A: one task's networks split at random in two must not be told apart.",
    "untrained": "Untrained: initial weights carry no task.",
}
RESULTS = ("cells", "distances", "controls", "informative_controls", "verdict")


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
        "nearest network among tasks the classifier never saw), with exact 95 % intervals. Broad bars "
        "(chain, and plain cosine): the worst to the best of several splits into training and test networks. Dashed: "
        "1 − α. Dotted: chance. Above: the same, enlarged; what lies lower is seen below only.</p>",
        "<h2>Controls</h2>",
        f"<div class=wide>{figures.controls(n['controls'], 'controls')}</div>",
        f"<p class=note>{' '.join(CONTROLS[name] for name in dict.fromkeys(c['control'] for c in n['controls']))} "
        "They belong on the dotted line.</p>",
        *_informative(n),
        "<h2>Distances within and between tasks</h2>",
        f"<div class=wide>{figures.distances(result)}</div>",
        "<p class=note>Of all pairs of networks: median (mark), half of them (bar), nine tenths (line). Where the two "
        "do not overlap, networks of one task are nearer each other than those of two. Scales differ between "
        "panels.</p>",
        f"<h2>Similarity of all networks, chain {result.kernel_chain}</h2>",
        figures.heat_map(result),
        "<p class=note>Where a square on the diagonal is bright, networks of one task are alike. Ticks and faint "
        "lines: where one task ends. Colours reach from the 1st to the 99.5th percentile of all pairs.</p>",
        "<h2>Retrieval</h2>",
        f"<div class=wide>{figures.cmc(result)}</div>",
        "<p class=note>Share of queries with a network of their own task among the first k. Dashed: plain cosine, "
        "nothing learned. Equal curves lie on top of each other, the chain's is the widest.</p>",
        f"<h2>Map of networks, chain {result.kernel_chain}</h2>",
        figures.embedding(result) or "<p>Too few networks to draw.</p>",
        "<p class=note>t-SNE of cosine distances: who is near whom counts, distances between groups do not.</p>",
        "<h2>Training</h2>",
        figures.training(result) or "<p>No training curves: none were recorded for these networks.</p>",
        "<h2>All numbers</h2>",
        _table(n["cells"]),
        _table(n["controls"] + n["informative_controls"]),
        _table(n["distances"]),
        "<h2>How to read this</h2>",
        *HOW_TO_READ,
        "<h2>Provenance</h2>",
        _provenance(n),
    ]
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{title}</title>"
    return (
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


HOW_TO_READ = (
    "<p>α is the size of error the paper tolerates; its rule compares an error count with it and controls no error "
    "rate, so the exact test stands beside it. <i>n needed</i>: the fewest test networks that could establish an error "
    "below α, if they erred as often as those counted; empty where not even a billion would. <i>Chance</i>: what the "
    "same answers would get right if tasks were dealt out to the networks at random, one in as many as there are tasks "
    "where all have equally many networks. <i>Published</i>, if given: arXiv 2208.04369, with its own data, recipe and "
    "100 networks a task.</p>",
    "<p>The exact intervals and p-values take test networks to be independent. Those of one task are not, and the "
    "queries of a retrieval share their tasks and one gallery besides. The intervals by task resample whole tasks and "
    "allow for that, except for the shared gallery; without an error they have no width, and with few tasks they are "
    "too narrow. All of them hold for these tasks' kind of data: other data was not sampled.</p>",
    "<p>Tasks that can be told apart do not prove that the solutions of one task are equivalent. Nor does the A/A "
    "control: random halves are alike whatever the solutions look like, so it shows that the test itself does not "
    "leak. Not to differ from chance proves little with few networks; the <i>margin</i> says by how much a control "
    "may still differ (95 %). Chain 1 is the Gram of the first layer, W<sub>1</sub>W<sub>1</sub><sup>T</sup>, which "
    "also follows the covariance of the task's inputs: similarity there may come from the data rather than from the "
    "solution. The relabelled images, where they were trained, tell the two apart.</p>",
    "<p>PERMANOVA: R² is the share of the squared distances between networks that lies between tasks, and p how often "
    "shuffled labels reach it; tasks that differ in spread alone can do it, too, above all with unequal numbers of "
    "networks. Layer statistics are moments and quantiles of each layer's weights and biases, up to "
    "that layer, standardised over the training networks (for distances, over all): what they find needs no comparison "
    "of weights at all.</p>",
)
ASKS = {
    "classification": "new networks of the tasks the classifier was trained on",
    "retrieval": "networks of tasks the classifier never saw",
}


def _verdict(n: dict[str, Any]) -> str:
    lines = []
    for protocol, asks in ASKS.items():
        v = n["verdict"][protocol]
        badge = _badge(v["established"], "established", "not established")
        says = "it is established" if v["established"] else "it is not established"
        share = f"fewer than {100 * n['alpha']:g}\u00a0% of all such networks"
        aside = "" if v["established"] else f" {lacking(v).capitalize()}."
        if v["paper_rule"] == "accept" and not v["established"]:
            aside += " The errors counted are few enough for that rule, but with so few networks that could be luck."
        lines.append(
            f"<p>{badge} <b>{protocol}</b> ({asks}): {says} that {share} are given a wrong task, in every chain at "
            f"once (p = {_p(v['p'])}). The paper's rule, every chain's error below α, says <b>{v['paper_rule']}</b>."
            f"{aside}</p>"
        )
    v = n["verdict"]
    said = (
        "no difference from guessing where there is nothing to find. A difference of more than "
        f"{100 * v['controls_margin']:.1f} points from chance is excluded in each of them (95 %), a smaller one is not."
        if v["controls_at_chance"]
        else "something other than the task separates networks; do not trust the verdict."
    )
    lines.append(f"<p>{_badge(v['controls_at_chance'], 'at chance', 'not at chance')} <b>controls</b>: {said}</p>")
    if n["tasks"] < ENOUGH_TASKS:
        lines.append(f"<p>{TWO_TRAINED.capitalize()}.</p>")
    if n["skipped"]:
        lines.append(f"<p>Not computed in this study: {', '.join(n['skipped'])}.</p>")
    return "".join(lines)


def _informative(n: dict[str, Any]) -> list[str]:
    """The section on controls that ask what the features read; empty where none were trained."""
    rows = n["informative_controls"]
    if not rows:
        return []
    return [
        "<h2>What do the features read?</h2>",
        f"<div class=wide>{figures.controls(rows, 'informative')}</div>",
        "<p class=note>Networks trained for this question; nothing is demanded of them. Relabelled images: three tasks "
        "with the same images and other labels. Above chance, the chain reads the labeling, not only the images. "
        "Shuffled labels: the same images under random labels. Above chance, the chain reads what was learned by heart "
        "(train accuracy, below).</p>",
    ]


def _badge(good: bool, yes: str, no: str) -> str:
    return f"<span class='badge {'yes' if good else 'no'}'>{yes if good else no}</span>"


def _facts(n: dict[str, Any]) -> str:
    facts = {
        "networks": f"{n['networks']:,}",
        "tasks × repeats": f"{n['tasks']} × {n['repeats']}",
        "diverged": n["diverged"],
    }
    if n["tasks_left_out"]:
        facts["tasks left out"] = n["tasks_left_out"]
    if n["train_accuracy"]:
        facts["train accuracy, mean (min)"] = "{mean:.1%} ({min:.1%})".format(**n["train_accuracy"])
    if n["timing"]["networks_per_s"]:
        facts["networks / s"] = f"{n['timing']['networks_per_s']:,.0f}"
    facts |= {"seconds in all": f"{n['timing']['total_s']:.0f}", "classifier": n["classifier"], "backend": n["backend"]}
    return "<div class=facts>" + "".join(f"<div>{k}<b>{escape(str(v))}</b></div>" for k, v in facts.items()) + "</div>"


def _table(rows: list[dict[str, Any]]) -> str:
    columns = [c for c in COLUMNS if any(c in row for row in rows)]
    head = "".join(f"<th>{COLUMNS[c]}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{_value(c, row)}</td>" for c in columns) + "</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div><br>"


def _value(column: str, row: dict[str, Any]) -> str:
    value = row.get(column)
    if value is None:
        return ""
    if column == "errors":
        return f"{value} / {row['n']}"
    if column in PERCENT:
        return f"{100 * value:.1f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column == "pseudo_f":
        return f"{value:,.1f}"
    if column in ("within", "between"):
        return " – ".join(f"{value[i]:.3g}" for i in (0, 2, 4))
    if column == "split_seeds":
        return "{:.1f} ({:.1f} – {:.1f})".format(*(100 * value[k] for k in ("mean", "min", "max")))
    if column == "train_accuracy":
        return f"{100 * value['mean']:.1f}"
    if isinstance(value, list):
        return f"{100 * value[0]:.1f} – {100 * value[1]:.1f}"
    return _p(value) if isinstance(value, float) else escape(TITLES.get(value, str(value)))


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-300 else "&lt; 1e-300"


def _provenance(n: dict[str, Any]) -> str:
    """What ran, in a sentence, and every entry of the numbers that is not a result."""
    recipe = "recipe: " + _flat(n["recipe"]) if n.get("recipe") else "no training recipe is recorded for them"
    said = f"<p>Classifier: {escape(n['classifier'])}. Networks: {escape(n['network'])}; {escape(recipe)}.</p>"
    rest = {k: v for k, v in n.items() if k not in RESULTS}
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(_flat(v))}</td></tr>" for k, v in rest.items())
    return f"{said}<table class=about><tbody>{rows}</tbody></table>"


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_flat(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_flat, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else "none" if value is None else str(value)
