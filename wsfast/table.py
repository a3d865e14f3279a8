"""A study's numbers as a text table."""

from collections.abc import Sequence
from typing import Any

from . import chains
from .inference import MOST_NETWORKS

TITLES = {**chains.TITLES, "statistics": "layer statistics"}
ENOUGH_TASKS = 5  # three train for retrieval
TWO_TRAINED = "retrieval was learned from two tasks, whose logits lie on a line and rank little: take 5 or more"


def families(cells: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """The cells of each (features, protocol, classifier), one per chain."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        found.setdefault((cell["features"], cell["protocol"], cell["classifier"]), []).append(cell)
    return found


def table(n: dict[str, Any]) -> str:
    """results.json as text: a row per feature and protocol, a column per chain, then controls and verdict."""
    numbers = sorted({c["chain"] for c in n["cells"]})
    too_small = f"tasks left out, with fewer than 2 usable networks: {n['tasks_left_out']}"
    lines = [
        f"{n['networks']} x {n['network']} on {n['data']}: {n['tasks']} tasks x {n['repeats']} repeats, "
        f"seed {n['seed']}, {n['diverged']} diverged and left out; {n['backend']} {n['precision']}",
        *([too_small] if n["tasks_left_out"] else []),
        "",
        _row("features", "protocol", "classifier", "chance", [f"chain {c}   " for c in numbers]),
    ]
    for (features, protocol, solver), family in families(n["cells"]).items():
        lines.append(_row(TITLES[features], protocol, solver, chance(family), map(_accuracy, family)))
        if any("published" in c for c in family):
            lines.append(_row("  published", "", "", "", map(_published, family)))
        if features == "chain" and solver != "cosine":  # the verdict's cells; results.json has these for all
            if "bootstrap95" in family[0]:
                lines.append(_row("  tasks resampled", "", "", "", [interval(c["bootstrap95"]) + " " for c in family]))
            if "split_seeds" in family[0]:
                seeds = len(family[0]["split_seeds"]["seeds"])
                lines.append(_row(f"  {seeds} splits, mean", "", "", "", map(_over_seeds, family)))
    for features in dict.fromkeys(d["features"] for d in n["distances"]):
        family = [d for d in n["distances"] if d["features"] == features]
        by_chance = percent(family[0]["r2_chance"])
        lines.append(_row(TITLES[features], "PERMANOVA R2", "", by_chance, map(_permanova, family)))
    for kind, rows in (("control", n["controls"]), ("reads", n["informative_controls"])):
        for name in dict.fromkeys(c["control"] for c in rows):
            family = [c for c in rows if c["control"] == name]
            lines.append(_row(f"{kind}: {name}", "", family[0]["classifier"], chance(family), map(_accuracy, family)))
    lines += [
        "",
        "accuracy or R2 in % [exact 95 % interval]; * an error below alpha is established (Holm over the chains)",
    ]
    if any("published" in c for c in n["cells"]):
        lines.append("published: arXiv 2208.04369, with its own data, recipe and 100 networks a task")
    for protocol in ("classification", "retrieval"):
        v = n["verdict"][protocol]
        said = "established" if v["established"] else "not established"
        lines.append(
            f"{protocol}: the paper's rule says {v['paper_rule']}; an error below {n['alpha']:g} in "
            f"every chain is {said} (p = {v['p']:.2g})"
        )
        if not v["established"]:
            lines.append(f"  {lacking(v)}")
    if n["tasks"] < ENOUGH_TASKS:
        lines.append(TWO_TRAINED)
    lines.append(f"controls: {_controls(n['verdict'])}")
    return "\n".join(lines + ([f"skipped: {', '.join(n['skipped'])}"] if n["skipped"] else []))


def lacking(verdict: dict[str, Any]) -> str:
    """How many networks a verdict that is not established lacks, in words."""
    enough = verdict["n_to_establish"]
    able = f"not even {MOST_NETWORKS:,} test networks" if enough is None else f"{enough:,} test networks a chain"
    return f"{able} could establish it at this error rate"


def _controls(verdict: dict[str, Any]) -> str:
    if not verdict["controls_at_chance"]:
        return "NOT all at chance: do not trust the verdict"
    return f"no difference from chance; more than {100 * verdict['controls_margin']:.1f} points are excluded (95 %)"


def _row(features: str, protocol: str, classifier: str, chance: str, values: Any) -> str:
    title = f"{features:<20} {protocol:<15}" if protocol else f"{features:<36}"
    return f"{title} {classifier:<10} {chance:>6} " + "".join(f"{v:>23}" for v in values)


def chance(family: Sequence[dict[str, Any]]) -> str:
    """The largest over the chains: where tasks are of unequal size it is each chain's own."""
    return percent(max(c["chance"] for c in family))


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def interval(shares: Sequence[float]) -> str:
    return f"[{percent(shares[0])}, {percent(shares[1])}]"


def _accuracy(cell: dict[str, Any]) -> str:
    return f"{percent(cell['accuracy'])} {interval(cell['ci95'])}" + ("*" if cell.get("established") else " ")


def _published(cell: dict[str, Any]) -> str:
    return f"{percent(cell['published'])} " if "published" in cell else "- "


def _over_seeds(cell: dict[str, Any]) -> str:
    s = cell["split_seeds"]
    return f"{percent(s['mean'])} ({percent(s['min'])}-{percent(s['max'])}) "


def _permanova(distance: dict[str, Any]) -> str:
    share = "-" if distance["r2"] is None else percent(distance["r2"])
    return share + (f" (p = {distance['p']:.2g}) " if "p" in distance else " ")
