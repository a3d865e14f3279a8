"""A study's numbers as a text table."""

from collections.abc import Sequence
from typing import Any

from .chains import TITLES


def families(cells: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """The cells of each (features, protocol, classifier), one per chain."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        found.setdefault((cell["features"], cell["protocol"], cell["classifier"]), []).append(cell)
    return found


def table(n: dict[str, Any]) -> str:
    """results.json as text: a row per feature and protocol, a column per chain, then the verdict."""
    chains = sorted({c["chain"] for c in n["cells"]})
    lines = [
        f"{n['networks']} x {n['network']} on {n['data']}: {n['tasks']} tasks x {n['repeats']} repeats, "
        f"seed {n['seed']}, {n['diverged']} diverged and left out; {n['backend']} {n['precision']}",
        "",
        _row("features", "protocol", "classifier", "chance", [f"chain {c}   " for c in chains]),
    ]
    for (features, protocol, solver), family in families(n["cells"]).items():
        lines.append(_row(TITLES[features], protocol, solver, _percent(family[0]["chance"]), map(_accuracy, family)))
    for name in dict.fromkeys(c["control"] for c in n["controls"]):
        family = [c for c in n["controls"] if c["control"] == name]
        lines.append(_row(f"control: {name}", "", "ridge", _percent(family[0]["chance"]), map(_accuracy, family)))
    lines += ["", "accuracy % [exact 95 % interval]; * an error below alpha is established (Holm over the chains)"]
    for protocol in ("classification", "retrieval"):
        v = n["verdict"][protocol]
        said = "established" if v["established"] else "not established"
        lines.append(
            f"{protocol}: the paper's rule says {v['paper_rule']}; an error below {n['alpha']:g} in "
            f"every chain is {said} (p = {v['p']:.2g})"
        )
    at = "at chance" if n["verdict"]["controls_at_chance"] else "NOT all at chance: do not trust the verdict"
    return "\n".join([*lines, f"controls: {at}"])


def _row(features: str, protocol: str, classifier: str, chance: str, values: Any) -> str:
    return f"{features:<20} {protocol:<15} {classifier:<10} {chance:>6} " + "".join(f"{v:>23}" for v in values)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _accuracy(cell: dict[str, Any]) -> str:
    low, high = cell["ci95"]
    star = "*" if cell.get("established") else " "
    return f"{_percent(cell['accuracy'])} [{_percent(low)}, {_percent(high)}]{star}"
