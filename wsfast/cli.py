"""The command line: a subcommand an activity, each a call of the public function behind it."""

import argparse
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .architectures import NETWORKS
from .arguments import parser
from .backends import interpreting, missing
from .events import LOG, JsonLines, emit
from .provenance import machine, peak_memory

CONTROL_REPEATS, SHUFFLED = 20, 5  # networks a task of the further controls; shuffled labelings
MACHINES = ("engine", "address")  # where the work is done


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code (`wsfast.arguments.EXIT`)."""
    args = parser().parse_args(argv)
    with ExitStack() as stack:
        try:
            if args.log_json:
                stack.enter_context(_logged(args.log_json))
            emit("start", command=args.command, arguments={k: v for k, v in vars(args).items() if v is not None})
            code, said = COMMANDS[args.command](args), None
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the exit flushes what nobody reads
            code, said = 141, None
        except (ValueError, OSError, ImportError) as error:
            code, said = 2, str(error)
        except RuntimeError as error:
            traceback.print_exc()  # a device, a cluster, or a mistake of ours: the message alone would not tell
            code, said = 3, str(error)
        except KeyboardInterrupt as stop:
            left = "the same command goes on with them" if args.command == "generate" else "nothing was written"
            code, said = 130, f"{str(stop) or 'interrupted'}; {left}"
        if said:
            print(f"wsfast: {said}", file=sys.stderr)
        emit("end", code=code, message=said)
    return code


@contextmanager
def _logged(path: str) -> Iterator[None]:
    """Events go to a file, as lines of JSON."""
    handler = logging.FileHandler(Path(path).expanduser(), delay=False)
    handler.setFormatter(JsonLines())
    before = LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(before)
        handler.close()


def _training(args: argparse.Namespace) -> tuple[Any, partial[Any]]:
    """(tasks, generate with the options of the command line)."""
    from . import generate, tasks

    problems = tasks(args.data, n=args.tasks, root=args.data_root)
    recipe = problems.recipe if args.epochs is None else problems.recipe.with_epochs(args.epochs)
    options = {name: getattr(args, name) for name in ("seed", "width", "backend", "device", "precision", *MACHINES)}
    return problems, partial(generate, args.network, recipe=recipe, **options)


def _generate(args: argparse.Namespace) -> int:
    problems, train = _training(args)
    if args.dry_run:
        return _planned(args, problems, train, args.out)
    zoo = train(problems, repeats=args.repeats, out=args.out)
    wild = f"{int(zoo.records['diverged'].sum())} diverged"
    print(f"{zoo!r}, {wild}, {zoo.info['networks_per_s']:.0f} networks/s\n{args.out}")
    return 0


def _planned(args: argparse.Namespace, problems: Any, train: partial[Any], out: str | None) -> int:
    """--dry-run: what training would take; the networks of a study's further controls come on top."""
    from . import planning

    plan = planning.plan_training(args.network, problems, repeats=args.repeats, out=out, **train.keywords)
    print(json.dumps(plan, indent=1) if "json" in args and args.json else planning.told(plan))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from .manifest import read
    from .verifying import verify

    problems = verify(args.zoo, retrain=args.retrain, root=args.data_root)
    for problem in problems:
        print(f"wsfast: {problem}", file=sys.stderr)
    again = min(args.retrain, read(Path(args.zoo).expanduser()).held)
    if not problems:
        print(f"{args.zoo}: sound" + (f", {again} networks trained again are the same" if again else ""))
    return int(bool(problems))


def _for_new_sets(args: argparse.Namespace) -> None:
    """ValueError for options of training beside a stored set."""
    plain = parser().parse_args(["study"])
    options = ("data", "network", "tasks", "repeats", "width", "epochs", "precision", "data_root")
    for name in options:
        if getattr(args, name) != getattr(plain, name):
            raise ValueError(f"study: --{name.replace('_', '-')} is for a new set, {args.zoo} is stored")


def _study(args: argparse.Namespace) -> int:
    from . import WeightSet, study
    from .files import writable_folder
    from .studying import check
    from .verifying import verify

    start = time.perf_counter()
    settings = {name: getattr(args, name) for name in ("alpha", "classifier", "permutations", "seed")}
    controls = {}
    if args.zoo:
        _for_new_sets(args)
        if args.dry_run:
            return _info(args)
        zoo = WeightSet.open(args.zoo)
        if damaged := verify(args.zoo):
            raise ValueError(f"study: {damaged[0]}")
        out = writable_folder(args.out or f"runs/{Path(args.zoo).resolve().name}")
    else:
        problems, train = _training(args)
        if args.dry_run:
            return _planned(args, problems, train, None)
        if args.repeats < 1:
            raise ValueError(f"study: repeats must be at least 1, got {args.repeats}")
        check(np.repeat(np.arange(len(problems)), args.repeats), **settings)  # before an hour of training
        out = writable_folder(args.out or f"runs/{args.data}-{args.network}")
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
        **settings,
        controls=controls,
        quick=args.quick,
        backend=args.backend,
        device=args.device,
        **{name: getattr(args, name) for name in MACHINES},
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


def _cross(args: argparse.Namespace) -> int:
    from . import cross
    from .files import writable_folder

    out = args.out and writable_folder(args.out)
    how = {name: getattr(args, name) for name in ("features", "classifier", "seed", "backend", "device")}
    result = cross(args.a, args.b, **how)
    if out:
        result.save(out)
    print(json.dumps(result.to_dict(), indent=1) if args.json else result.table())
    return 0


def _tasks_of(zoo: Any, args: argparse.Namespace) -> Any:
    """What a stored set was trained on: as it says itself, or of an imported one the tasks of --data that it names."""
    from . import tasks
    from .trained_on import trained_on

    own = zoo.info.get("data")
    if args.data in (None, own):
        return trained_on(args.command, zoo, root=args.data_root)
    if "tasks_sha256" in zoo.info:
        raise ValueError(f"{args.command}: --data is for imported sets, {args.zoo} was generated on {own}")
    known = tasks(args.data, root=args.data_root)
    by_name = dict(zip(known.names, known.tasks, strict=True))
    unknown = set(zoo.task_names) - by_name.keys()
    if len(unknown) == len(set(zoo.task_names)):  # numbers, say: label i is the i-th task
        return replace(known, tasks=known.tasks[: len(unknown) or None])
    if unknown:
        raise ValueError(f"{args.command}: {args.zoo} has a task {min(unknown)!r}, {args.data} has none of this name")
    return replace(known, tasks=tuple(by_name[name] for name in zoo.task_names))


def _connectivity(args: argparse.Namespace) -> int:
    from . import WeightSet, align, connectivity
    from .files import writable_folder

    zoo = WeightSet.open(args.zoo)
    tasks, out = _tasks_of(zoo, args), args.out and writable_folder(args.out)
    options = {name: getattr(args, name) for name in ("pairs", "points", "seed", "backend", "device")}
    if zoo.network.groups:  # else no order of units is a symmetry
        options["align"] = lambda zoo, to: align(zoo, to).zoo
    result = connectivity(zoo, tasks, **options)
    if out:
        result.save(out)
    print(json.dumps(result.to_dict(), indent=1) if args.json else result.table())
    return 0


def _search(args: argparse.Namespace) -> int:
    from .searching import search, table

    rows = search(args.query, args.zoo, top=args.top)
    print(json.dumps(rows, indent=1) if args.json else table(rows))
    return 0


def _converge(args: argparse.Namespace) -> int:
    from . import WeightSet
    from .converging import convergence, sample_inputs
    from .files import writable_folder

    zoo = WeightSet.open(args.zoo)
    inputs = sample_inputs(_tasks_of(zoo, args), args.samples, args.seed)
    out = writable_folder(args.out or f"runs/{Path(args.zoo).resolve().name}")
    options = {name: getattr(args, name) for name in ("pairs", "clusters", "seed", "backend", "device")}
    result = convergence(zoo, inputs, **options)
    report = result.save(out)
    print(json.dumps(result.to_dict(), indent=1) if args.json else f"{result.table()}\n\nreport: {report}")
    return 0


def _metanetworks(args: argparse.Namespace) -> int:
    from . import metanetworks
    from .files import writable_folder

    out = args.out and writable_folder(args.out)
    result = metanetworks(args.zoos, seed=args.seed, backend=args.backend, device=args.device)
    if out:
        result.save(out)
    print(json.dumps(result.to_dict(), indent=1) if args.json else result.table())
    return 0


def _grid(args: argparse.Namespace) -> int:
    from . import grid, tasks
    from .files import writable_folder

    out = writable_folder(args.out or f"runs/grid-{args.data}")
    names = ("repeats", "chain", "pairs", "classifier", "seed", "width", "device")
    options = {name: getattr(args, name) for name in names}
    result = grid(tasks(args.data, n=args.tasks, root=args.data_root), **options)
    report = result.save(out)
    print(json.dumps(result.to_dict(), indent=1) if args.json else f"{result.table()}\n\nreport: {report}")
    return 0


def _info(args: argparse.Namespace) -> int:
    from . import describing, provenance
    from .datasets import data_root, found

    if args.zoo:
        about = describing.describe(args.zoo)
        print(json.dumps(about, indent=1) if args.json else describing.told(about))
        return 0
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
    "cross": _cross,
    "connectivity": _connectivity,
    "search": _search,
    "converge": _converge,
    "metanetworks": _metanetworks,
    "grid": _grid,
    "info": _info,
}
