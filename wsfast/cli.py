"""The command line: wsfast study, wsfast compare, wsfast info.

Exit codes: 0 done, 2 a request that cannot be met (the message says why), 130 interrupted.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import __version__
from .backends import DEFAULT, PACKAGES, interpreting, missing
from .datasets import LOADERS
from .generation import PRECISIONS
from .network import NETWORKS
from .protocols import CLASSIFIERS
from .provenance import machine, peak_memory

CONTROL_REPEATS, SHUFFLED = 20, 5  # networks a task of the further controls; shuffled labelings


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "wsfast", description="Do networks trained from different seeds end up with similar weights?"
    )
    top.add_argument("--version", action="version", version=f"wsfast {__version__}")
    commands = top.add_subparsers(dest="command", required=True)

    study = commands.add_parser(
        "study",
        help="train a population of networks, measure their similarity, write a report",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    study.add_argument("zoo", nargs="?", help="folder of a stored weight set, studied instead of a new one")
    _add_training(study)
    study.add_argument("--out", help="folder for results.json and report.html (default: runs/DATA-NETWORK)")
    study.add_argument("--alpha", type=float, default=0.05, help="the error below which the paper accepts")
    study.add_argument("--classifier", default=CLASSIFIERS[0], choices=CLASSIFIERS, help="sgd: the paper's recipe")
    study.add_argument("--permutations", type=int, default=199, help="shuffled labelings a chain")
    study.add_argument(
        "--quick", action="store_true", help="one split, no permutations, resampling or further controls"
    )
    study.add_argument("--json", action="store_true", help="print results.json instead of the table")

    generate = commands.add_parser(
        "generate",
        help="train a population into a folder; the same command goes on with what an interrupted one left",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_training(generate)
    generate.add_argument("--out", required=True, help="folder of the weight set")

    verify = commands.add_parser("verify", help="compare a stored weight set with its manifest")
    verify.add_argument("zoo", help="its folder")
    verify.add_argument("--retrain", type=int, default=0, help="networks that are trained again and compared")
    verify.add_argument("--data-root", help="folder of the data sets (default: the environment's WSFAST_DATA)")

    compare = commands.add_parser("compare", help="chain similarity of two networks")
    compare.add_argument("a", help="a .safetensors file: a torch state dict")
    compare.add_argument("b", help="another")
    compare.add_argument("--json", action="store_true", help="print JSON")

    search = commands.add_parser("search", help="the networks of a set that are closest to one")
    search.add_argument("query", help="a .safetensors file: a torch state dict")
    search.add_argument("--zoo", required=True, help="folder of a stored weight set")
    search.add_argument("--top", type=int, default=10, help="networks a chain")
    search.add_argument("--json", action="store_true", help="print JSON")

    converge = commands.add_parser(
        "converge",
        help="do hidden units of two networks answer alike? matches over the data a stored set was trained on",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    converge.add_argument("zoo", help="folder of a generated weight set")
    converge.add_argument("--pairs", type=int, default=200, help="of networks, of each kind")
    converge.add_argument("--samples", type=int, default=512, help="test samples that all networks answer")
    converge.add_argument("--clusters", type=int, help="groups of units (default: a fourth of the units)")
    converge.add_argument("--seed", type=int, default=0, help="of the pairs and the samples")
    converge.add_argument("--backend", choices=tuple(PACKAGES), help="of the correlations (default: the device's)")
    converge.add_argument("--device", default="cpu", choices=tuple(DEFAULT), help="where correlations are computed")
    converge.add_argument("--data-root", help="folder of the data sets (default: the environment's WSFAST_DATA)")
    converge.add_argument("--out", help="folder for converge.json and converge.html (default: runs/ZOO)")
    converge.add_argument("--json", action="store_true", help="print converge.json instead of the table")

    info = commands.add_parser("info", help="versions, backends, data sets found on this machine")
    info.add_argument("--data-root", help="folder of the data sets (default: the environment's WSFAST_DATA)")
    info.add_argument("--json", action="store_true", help="print JSON")
    return top


def _add_training(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", default="digits", help=f"one of {', '.join(LOADERS)}")
    command.add_argument("--network", default="mlp4", help=f"one of {', '.join(NETWORKS)}")
    command.add_argument("--tasks", type=int, help="the first so many tasks (default: all)")
    command.add_argument("--repeats", type=int, default=40, help="networks per task")
    command.add_argument("--seed", type=int, default=0, help="of the networks and the splits")
    command.add_argument("--width", type=int, help="hidden units (default: what suits the data)")
    command.add_argument("--epochs", type=int, help="passes over the data (default: what suits the data)")
    command.add_argument("--backend", choices=tuple(PACKAGES), help="default: what suits the device")
    command.add_argument("--device", default="cpu", choices=tuple(DEFAULT), help="where networks are trained")
    command.add_argument("--precision", choices=PRECISIONS["triton"], help="of triton's products (default: tf32x3)")
    command.add_argument("--data-root", help="folder of the data sets (default: the environment's WSFAST_DATA)")


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        return COMMANDS[args.command](args)
    except (ValueError, OSError) as error:
        print(f"wsfast: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        left = "the same command goes on with them" if args.command == "generate" else "nothing was written"
        print(f"wsfast: {str(stop) or 'interrupted'}; {left}", file=sys.stderr)
        return 130


def _training(args: argparse.Namespace) -> tuple[Any, Callable[..., Any]]:
    """(tasks, generate with the options of the command line)."""
    from . import generate, tasks

    problems = tasks(args.data, n=args.tasks, root=args.data_root)
    recipe = problems.recipe if args.epochs is None else problems.recipe.with_epochs(args.epochs)
    options = {name: getattr(args, name) for name in ("seed", "width", "backend", "device", "precision")}
    return problems, partial(generate, args.network, recipe=recipe, **options)


def _generate(args: argparse.Namespace) -> int:
    problems, train = _training(args)
    zoo = train(problems, repeats=args.repeats, out=args.out)
    print(f"{zoo!r}, {zoo.info['networks_per_s']:.0f} networks/s\n{args.out}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from .verifying import verify

    problems = verify(args.zoo, retrain=args.retrain, root=args.data_root)
    for problem in problems:
        print(f"wsfast: {problem}", file=sys.stderr)
    if not problems:
        print(f"{args.zoo}: sound" + (f", {args.retrain} networks trained again are the same" if args.retrain else ""))
    return int(bool(problems))


def _study(args: argparse.Namespace) -> int:
    from . import WeightSet, study
    from .files import writable_folder

    start = time.perf_counter()
    name = Path(args.zoo).name if args.zoo else f"{args.data}-{args.network}"
    out = writable_folder(args.out or f"runs/{name}")  # before an hour of training, not after it
    controls = {}
    if args.zoo:
        zoo = WeightSet.open(args.zoo)
    else:
        problems, train = _training(args)
        further = {}
        if not args.quick:
            further = {
                "relabelled images": problems.regrouped(),
                "shuffled labels": problems.shuffled(SHUFFLED, args.seed),
            }
        zoo = train(problems, repeats=args.repeats)
        few = min(args.repeats, CONTROL_REPEATS)
        controls = {name: train(own, repeats=few) for name, own in further.items()}
    result = study(
        zoo,
        alpha=args.alpha,
        classifier=args.classifier,
        permutations=args.permutations,
        controls=controls,
        quick=args.quick,
        seed=args.seed,
        backend=args.backend,
        device=args.device,
    )
    result.numbers["timing"]["total_s"] = time.perf_counter() - start
    report = result.save(out)
    if args.json:
        print(json.dumps(result.to_dict(), indent=1))
    else:
        timing = result.to_dict()["timing"]
        print(result.table())
        peak = peak_memory()
        held = "" if peak is None else f", {peak / 1e9:.2f} GB of memory at most"
        rate = f"{timing['networks_per_s']:.0f} networks/s, " if timing["networks_per_s"] else ""
        print(f"\n{rate}{timing['total_s']:.0f} s in all{held}\nreport: {report}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from .comparing import compare, table

    rows = compare(args.a, args.b)
    print(json.dumps(rows, indent=1) if args.json else table(rows))
    return 0


def _search(args: argparse.Namespace) -> int:
    from .searching import search, table

    rows = search(args.query, args.zoo, top=args.top)
    print(json.dumps(rows, indent=1) if args.json else table(rows))
    return 0


def _converge(args: argparse.Namespace) -> int:
    from .converging import convergence, stored_inputs
    from .files import writable_folder

    out = writable_folder(args.out or f"runs/{Path(args.zoo).name}")
    zoo, inputs = stored_inputs(args.zoo, args.samples, args.seed, args.data_root)
    options = {name: getattr(args, name) for name in ("pairs", "clusters", "seed", "backend", "device")}
    result = convergence(zoo, inputs, **options)
    report = result.save(out)
    print(json.dumps(result.to_dict(), indent=1) if args.json else f"{result.table()}\n\nreport: {report}")
    return 0


def _info(args: argparse.Namespace) -> int:
    from . import provenance
    from .datasets import data_root, found

    known = {
        "networks": list(NETWORKS),
        "backends": backends(),
        "data_root": str(data_root(args.data_root) or ""),
        "data": found(args.data_root),
        **provenance.record(),
    }
    if args.json:
        print(json.dumps(known, indent=1))
        return 0
    print(f"wsfast {__version__} on {known['device']}" + (f", commit {known['commit']}" if known["commit"] else ""))
    for title, entries in (("versions", known["versions"]), ("backends", known["backends"]), ("data", known["data"])):
        print(f"\n{title}")
        for name, said in entries.items():
            print(f"  {name:<14} {said}")
    print(f"\nnetworks\n  {', '.join(NETWORKS)}")
    return 0


def backends() -> dict[str, str]:
    """What each backend runs on here, or why it cannot."""
    from .kernels.numba.tile import LANES

    reason = missing("triton")
    where = f"cuda (default there): {machine('cuda')}" if not reason and not interpreting() else "cpu: its interpreter"
    return {
        "numba": f"cpu (default): float32, {LANES} lanes a vector, compiled code kept between runs",
        "triton": f"cannot run here: {reason}" if reason else where,
        "reference": "cpu: NumPy float64, the specification, slow",
    }


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "study": _study,
    "generate": _generate,
    "verify": _verify,
    "compare": _compare,
    "search": _search,
    "converge": _converge,
    "info": _info,
}
