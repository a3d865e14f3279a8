"""What a stored weight set holds, in numbers and in words."""

from pathlib import Path
from typing import Any

from .chains import chain_width, cheaper_form
from .manifest import read
from .storage import load
from .weights import WeightSet

MADE = ("data", "source", "data_options", "seed", "repeats", "backend", "precision", "recipe")
KEPT = (*MADE, "device", "versions", "commit", "time")


def describe(folder: str | Path) -> dict[str, Any]:
    """Of a stored set, also an unfinished one: what it is, how it was made, how its networks do.

    Reads the manifest and the records, no weights. networks: declared; held: on disk; bytes: of the held ones' files;
    accuracy: mean and least of training and test accuracy; diverged: None in sets without that record; chains: as
    wsfast.describing.chains; runs: of generate. ValueError where there is no readable set.
    """
    folder = Path(folder).expanduser()
    manifest = read(folder)
    zoo = load(folder, partial=True)
    names = ("train_accuracy", "test_accuracy")
    found = {name: zoo.records[name] for name in names if name in zoo.records}
    return {
        "network": zoo.network.name,
        "options": dict(zoo.network.options),
        "input_shape": list(zoo.network.input_shape),
        "parameters": sum(p.size for p in zoo.network.parameters),
        "tasks": len(manifest.task_names),
        "networks": manifest.networks,
        "held": manifest.held,
        "shards": len(manifest.shards),
        "bytes": sum(entry.bytes for entry in manifest.shards),
        "accuracy": {name: {"mean": float(a.mean()), "min": float(a.min())} for name, a in found.items()},
        "diverged": int(zoo.records["diverged"].sum()) if "diverged" in zoo.records else None,
        "chains": chains(zoo, len(zoo)),
        "runs": list(manifest.info.get("runs", [])),
        **{key: manifest.info[key] for key in KEPT if key in manifest.info},
    }


def chains(zoo: WeightSet, networks: int) -> list[dict[str, Any]]:
    """Of every chain: d and r of its factors [d, r], and for a kernel of so many networks the cheaper form and its
    multiplications (wsfast.chains.cheaper_form)."""
    found = []
    for chain in range(1, len(zoo.network.chains) + 1):
        d, r = chain_width(zoo, chain), zoo.network.chain(chain)[-1].shape[-1]
        form = cheaper_form(networks, networks, d, r)
        pairs = networks * (networks + 1) // 2
        work = pairs * d * r * r if form == "factorised" else d * (d + 1) // 2 * (networks * r + pairs)
        found.append({"chain": chain, "d": d, "r": r, "form": form, "multiplications": work})
    return found


def told(about: dict[str, Any]) -> str:
    """A description as text."""
    lines = [
        f"{about['held']:,} of {about['networks']:,} x {about['network']}, {about['parameters']:,} parameters each, "
        f"{about['tasks']} tasks of {about.get('data', 'unknown data')}",
        f"{in_bytes(about['bytes'])}, shards: {about['shards']}",
    ]
    for name, a in about["accuracy"].items():
        lines.append(f"{name.replace('_', ' ')} {100 * a['mean']:.1f} %, the least {100 * a['min']:.1f} %")
    if about["diverged"] is not None:
        lines.append(f"{about['diverged']} diverged")
    lines += feature_lines(about["chains"], about["held"])
    if "recipe" in about:
        said = ", ".join(f"{k} {v}" for k, v in about["recipe"].items() if v is not None)
        backend, precision, seed = (about.get(key, "unknown") for key in ("backend", "precision", "seed"))
        lines.append(f"made by {backend} {precision}, seed {seed}: {said}")
    lines += [
        f"run of {run.get('time', 'unknown time')}: {run['networks']:,} networks in {run['seconds']:,.0f} s on "
        f"{run.get('device', 'an unknown device')}"
        for run in about["runs"]
    ]
    return "\n".join(lines)


def feature_lines(found: list[dict[str, Any]], networks: int) -> list[str]:
    """Chains as text, a line each, and the size of an N x N kernel."""
    lines = [
        f"chain {c['chain']}: factors [{c['d']}, {c['r']}], {c['form']}, {c['multiplications']:.1e} multiplications"
        for c in found
    ]
    return [*lines, f"every N x N kernel {in_bytes(8 * networks**2)}"]


def in_bytes(n: float) -> str:
    """A size with its unit: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} PB"
