"""The table of one run, and the page of all runs."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
HEAD = """# Results

Made by `python -m bench` from `results/*.json`; `python -m bench --page` makes it again. Time: median and quartiles of
interleaved rounds, for one step of one network (train_mlp, train_cnn, train_gru), all factors or Grams (chain_factor,
chain_gram), one N x N matrix (chain_kernel), one fit (classifier), one labeling's fit and test (labelings), one pair's
line of 25 points (interpolate) or one pair of networks (correlation). GFLOP/s: operations by formula over the median.
Peak: the best float32 matrix product, measured before each suite. Ratio: the best peer's time over this one's. Error:
of training, chains and correlations against NumPy float64, of the weight change (the median of the checked networks,
and the worst, which rounding alone can carry over a ReLU's kink) or of the entries, all float32; of interpolate of a
line's losses; of classifier and labelings the share of wrong answers on test networks. JAX is a peer of training
where it is installed; its compiling does not count.
"""


def duration(seconds: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def goal(row: dict[str, Any]) -> str:
    if row["goal"] is None:
        return ""
    reached = row.get("goal_ratio", row["ratio"])
    over = f" x {row['goal_over']} ({reached:.1f})" if "goal_over" in row else ""
    return f"{row['goal']:g}{over}: {'met' if reached >= row['goal'] else 'missed'}"


def tables(rows: list[dict[str, Any]]) -> str:
    """One Markdown table a configuration."""
    lines = []
    for (suite, case, commit), group in groupby(rows, lambda r: (r["suite"], r["case"], r.get("commit"))):
        lines += [
            f"\n{suite}, {case}" + (f" (commit {commit})" if commit else "") + "\n",
            "| | time | quartiles | GFLOP/s | of peak | ratio | goal | error | worst | threads |",
        ]
        lines.append("|---|---|---|---|---|---|---|---|---|---|")
        for r in group:
            spread = f"{duration(r['q1'])} to {duration(r['q3'])}"
            speed = "|" if r["gflops"] is None else f"{r['gflops']:.1f} | {r['share']:.0%}"
            lines.append(
                f"| {r['contender']} | {duration(r['median'])} | {spread} | {speed} "
                f"| {r['ratio']:.2f} | {goal(r)} | {r['error']:.1e} | {r['worst']:.1e} | {r['how']} |"
            )
    return "\n".join(lines) + "\n"


def ceiling(peak: dict[str, float]) -> str:
    best = max(peak, key=peak.__getitem__)
    return f"Peak: {best}, from " + ", ".join(f"{name} {rate:.0f}" for name, rate in peak.items()) + " GFLOP/s."


def write() -> None:
    """Make RESULTS.md from every stored run, the newest first."""
    text = HEAD
    for file in sorted(RESULTS.glob("[0-9]*.json"), reverse=True):
        run = json.loads(file.read_text())
        packages = ", ".join(f"{k} {v}" for k, v in run["versions"].items())
        text += f"\n## {run['device']}, {run['time'][:10]}\n\n{packages}.\n"
        for part, rows in groupby(run["rows"], lambda row: row["part"]):
            text += f"\n### {part}\n\n{ceiling(run['peak'][part])}\n{tables(list(rows))}"
    (HERE / "RESULTS.md").write_text(text)
