"""What the command line takes."""

import argparse
from typing import Any

from . import __version__
from .architectures import NETWORKS
from .backends import DEFAULT, PACKAGES
from .chains import FEATURES
from .cluster import ENGINES
from .datasets import LOADERS
from .importing import SUFFIXES
from .protocols import CLASSIFIERS
from .training import PRECISIONS

EXIT = """exit codes:
  0    done
  1    verify: the set is not what its manifest says; with a traceback, a mistake of wsfast's own
  2    the request cannot be met; the message says why, and what generate finished with --out is kept
  3    the device or the cluster failed; the message says where, the same command goes on with what is on disk
  130  interrupted (Ctrl-C); with --out, generate keeps every finished shard
  141  whoever read the output stopped, as head does
"""


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that names a default where there is one; where None stands for it, the help itself says what."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "wsfast",
        description="Do networks trained from different seeds end up with similar weights?",
        epilog=EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"wsfast {__version__}")
    _add_log(top, None)
    commands = top.add_subparsers(dest="command", required=True)

    study = commands.add_parser(
        "study",
        help="train a population of networks, measure their similarity, write a report",
        formatter_class=Defaults,
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
        formatter_class=Defaults,
    )
    _add_training(generate)
    generate.add_argument("--out", required=True, help="folder of the weight set")

    verify = commands.add_parser("verify", help="compare a stored weight set with its manifest")
    verify.add_argument("zoo", help="its folder")
    verify.add_argument("--retrain", type=int, default=0, help="networks that are trained again and compared")
    verify.add_argument("--data-root", help="folder of the data sets (default: the environment's WSFAST_DATA)")

    compare = commands.add_parser("compare", help="chain similarity of two networks")
    compare.add_argument("a", help=f"a state dict: {', '.join(SUFFIXES)}")
    compare.add_argument("b", help="another")
    compare.add_argument("--json", action="store_true", help="print JSON")

    cross = commands.add_parser(
        "cross",
        help="train the weight classifier on one set, test it on another",
        formatter_class=Defaults,
    )
    cross.add_argument("a", help="folder of a stored weight set")
    cross.add_argument("b", help="another of the same tasks")
    cross.add_argument("--features", default="chain", choices=FEATURES, help="what the classifier reads")
    cross.add_argument("--classifier", default=CLASSIFIERS[0], choices=CLASSIFIERS, help="sgd: the paper's recipe")
    cross.add_argument("--seed", type=int, default=0, help="of the splits")
    cross.add_argument("--backend", choices=tuple(PACKAGES), help="default: what suits the device")
    cross.add_argument("--device", default="cpu", choices=tuple(DEFAULT), help="where chain kernels are computed")
    cross.add_argument("--out", help="folder for cross.json and cross.svg")
    cross.add_argument("--json", action="store_true", help="print JSON instead of the table")

    connect = commands.add_parser(
        "connectivity",
        help="loss on straight lines between the networks of a task, as they came and aligned by weight matching",
        formatter_class=Defaults,
    )
    connect.add_argument("zoo", help="folder of a stored weight set")
    _add_data_of(connect)
    connect.add_argument("--pairs", type=int, default=20, help="of networks, a task")
    connect.add_argument("--points", type=int, default=25, help="on a line")
    connect.add_argument("--seed", type=int, default=0, help="of the pairs")
    connect.add_argument("--backend", choices=tuple(PACKAGES), help="of the lines (default: the device's)")
    connect.add_argument("--device", default="cpu", choices=tuple(DEFAULT), help="where lines are measured")
    connect.add_argument("--data-root", help="folder of the data sets (default: the environment's WSFAST_DATA)")
    connect.add_argument("--out", help="folder for connectivity.json and barriers.svg")
    connect.add_argument("--json", action="store_true", help="print JSON instead of the table")

    search = commands.add_parser("search", help="the networks of a set that are closest to one")
    search.add_argument("query", help=f"a state dict: {', '.join(SUFFIXES)}")
    search.add_argument("--zoo", required=True, help="folder of a stored weight set")
    search.add_argument("--top", type=int, default=10, help="networks a chain")
    search.add_argument("--json", action="store_true", help="print JSON")

    converge = commands.add_parser(
        "converge",
        help="do hidden units of two networks answer alike? matches over the data a stored set was trained on",
        formatter_class=Defaults,
    )
    converge.add_argument("zoo", help="folder of a stored weight set")
    _add_data_of(converge)
    converge.add_argument("--pairs", type=int, default=200, help="of networks, of each kind")
    converge.add_argument("--samples", type=int, default=512, help="test samples that all networks answer")
    converge.add_argument("--clusters", type=int, help="groups of units (default: a fourth of the units)")
    converge.add_argument("--seed", type=int, default=0, help="of the pairs and the samples")
    converge.add_argument("--backend", choices=tuple(PACKAGES), help="of the correlations (default: the device's)")
    converge.add_argument("--device", default="cpu", choices=tuple(DEFAULT), help="where correlations are computed")
    converge.add_argument("--data-root", help="folder of the data sets (default: the environment's WSFAST_DATA)")
    converge.add_argument("--out", help="folder for converge.json and converge.html (default: runs/ZOO)")
    converge.add_argument("--json", action="store_true", help="print converge.json instead of the table")

    meta = commands.add_parser(
        "metanetworks",
        help="predict networks' test accuracy from their weights, over sets whose learning rate and epochs vary",
        formatter_class=Defaults,
    )
    meta.add_argument("zoos", nargs="+", metavar="zoo", help="folders of generated weight sets of the same tasks")
    meta.add_argument("--seed", type=int, default=0, help="of the splits and the models")
    meta.add_argument("--backend", choices=tuple(PACKAGES), help="default: what suits the device")
    meta.add_argument("--device", default="cpu", choices=tuple(DEFAULT), help="where chain kernels are computed")
    meta.add_argument("--out", help="folder for metanetworks.json and metanetworks.svg")
    meta.add_argument("--json", action="store_true", help="print JSON instead of the table")

    grid = commands.add_parser(
        "grid",
        help="features against standard and asymmetric networks: is it the order of units that breaks raw weights?",
        formatter_class=Defaults,
    )
    grid.add_argument("--data", default="digits", help=f"one of {', '.join(LOADERS)}")
    grid.add_argument("--tasks", type=int, default=20, help="the first so many tasks")
    grid.add_argument("--repeats", type=int, default=20, help="networks per task and column")
    grid.add_argument("--chain", type=int, default=2, help="whose layers all features are of")
    grid.add_argument("--pairs", type=int, default=5, help="of networks, a task, on whose lines barriers are measured")
    grid.add_argument("--classifier", default=CLASSIFIERS[0], choices=CLASSIFIERS, help="sgd: the paper's recipe")
    grid.add_argument("--seed", type=int, default=0, help="of networks, splits, pairs and orders")
    grid.add_argument("--width", type=int, help="hidden units (default: what suits the data)")
    grid.add_argument("--device", default="cpu", choices=tuple(DEFAULT), help="where networks are trained and measured")
    grid.add_argument("--data-root", help="folder of the data sets (default: the environment's WSFAST_DATA)")
    grid.add_argument("--out", help="folder for grid.json and grid.html (default: runs/grid-DATA)")
    grid.add_argument("--json", action="store_true", help="print grid.json instead of the table")

    info = commands.add_parser("info", help="of a stored weight set, or versions, backends and data on this machine")
    info.add_argument("zoo", nargs="?", help="folder of a weight set")
    info.add_argument("--data-root", help="folder of the data sets (default: the environment's WSFAST_DATA)")
    info.add_argument("--json", action="store_true", help="print JSON")
    for command in commands.choices.values():
        _add_log(command, argparse.SUPPRESS)  # given or not, it leaves what stands before the command
    return top


def _add_log(command: argparse.ArgumentParser, default: Any) -> None:
    command.add_argument(
        "--log-json", metavar="FILE", default=default, help="append events to it, one JSON object a line"
    )


def _add_data_of(command: argparse.ArgumentParser) -> None:
    known = ", ".join(LOADERS)
    said = "what an imported set was trained on (tasks by their names, or else label i being the i-th)"
    command.add_argument("--data", help=f"{said}: one of {known}")


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
    command.add_argument("--dry-run", action="store_true", help="print plan, sizes and time; train and write nothing")
    command.add_argument(
        "--precision", choices=PRECISIONS["triton"], help="of triton's products (default: the network's)"
    )
    command.add_argument("--data-root", help="folder of the data sets (default: the environment's WSFAST_DATA)")
    command.add_argument(
        "--engine", default="local", choices=ENGINES, help="ray: a cluster (pip install 'wsfast[ray]')"
    )
    command.add_argument("--address", help="of a running Ray cluster (default: one is started on this machine)")
