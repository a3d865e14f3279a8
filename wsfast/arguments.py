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


def _flag(what: str) -> dict[str, Any]:
    return {"action": "store_true", "help": what}


def _count(what: str, default: int | None = None) -> dict[str, Any]:
    return {"type": int, "default": default, "help": what}


def _device(what: str) -> dict[str, Any]:
    return {"default": "cpu", "choices": tuple(DEFAULT), "help": what}


def _backend(what: str) -> dict[str, Any]:
    return {"choices": tuple(PACKAGES), "help": what}


BACKEND, KERNELS = _backend("default: what suits the device"), _device("where chain kernels are computed")
CLASSIFIER = {"default": CLASSIFIERS[0], "choices": CLASSIFIERS, "help": "sgd: the paper's recipe"}
DATA = {"default": "digits", "help": f"one of {', '.join(LOADERS)}"}
ROOT = {"help": "folder of the data sets (default: the environment's WSFAST_DATA)"}
WIDTH = _count("hidden units (default: what suits the data)")
JSON, TABLE = _flag("print JSON"), _flag("print JSON instead of the table")
STATE = {"help": f"a state dict: {', '.join(SUFFIXES)}"}
STORED = {"help": "folder of a stored weight set"}
DATA_OF = {
    "help": "what an imported set was trained on (tasks by their names, or else label i being the i-th): one of "
    + ", ".join(LOADERS)
}
LOG: dict[str, Any] = {"metavar": "FILE", "help": "append events to it, one JSON object a line"}
TRAINING = {
    "--data": DATA,
    "--network": {"default": "mlp4", "help": f"one of {', '.join(NETWORKS)}"},
    "--tasks": _count("the first so many tasks (default: all)"),
    "--repeats": _count("networks per task", 40),
    "--seed": _count("of the networks and the splits", 0),
    "--width": WIDTH,
    "--epochs": _count("passes over the data (default: what suits the data)"),
    "--backend": BACKEND,
    "--device": _device("where networks are trained"),
    "--dry-run": _flag("print plan, sizes and time; train and write nothing"),
    "--precision": {"choices": PRECISIONS["triton"], "help": "of triton's products (default: the network's)"},
    "--data-root": ROOT,
    "--engine": {"default": "local", "choices": ENGINES, "help": "ray: a cluster (pip install 'wsfast[ray]')"},
    "--address": {"help": "of a running Ray cluster (default: one is started on this machine)"},
}
COMMANDS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {  # what each is for, its arguments
    "study": (
        "train a population of networks, measure their similarity, write a report",
        {
            "zoo": {"nargs": "?", "help": "folder of a stored weight set, studied instead of a new one"},
            **TRAINING,
            "--out": {"help": "folder for results.json and report.html (default: runs/DATA-NETWORK)"},
            "--alpha": {"type": float, "default": 0.05, "help": "the error below which the paper accepts"},
            "--classifier": CLASSIFIER,
            "--permutations": _count("shuffled labelings a chain", 199),
            "--quick": _flag("one split, no permutations, resampling or further controls"),
            "--json": _flag("print results.json instead of the table"),
        },
    ),
    "generate": (
        "train a population into a folder; the same command goes on with what an interrupted one left",
        {**TRAINING, "--out": {"required": True, "help": "folder of the weight set"}},
    ),
    "verify": (
        "compare a stored weight set with its manifest",
        {
            "zoo": {"help": "its folder"},
            "--retrain": _count("networks that are trained again and compared", 0),
            "--data-root": ROOT,
        },
    ),
    "compare": ("chain similarity of two networks", {"a": STATE, "b": {"help": "another"}, "--json": JSON}),
    "cross": (
        "train the weight classifier on one set, test it on another",
        {
            "a": STORED,
            "b": {"help": "another of the same tasks"},
            "--features": {"default": "chain", "choices": FEATURES, "help": "what the classifier reads"},
            "--classifier": CLASSIFIER,
            "--seed": _count("of the splits", 0),
            "--backend": BACKEND,
            "--device": KERNELS,
            "--out": {"help": "folder for cross.json and cross.svg"},
            "--json": TABLE,
        },
    ),
    "connectivity": (
        "loss on straight lines between the networks of a task, as they came and aligned by weight matching",
        {
            "zoo": STORED,
            "--data": DATA_OF,
            "--pairs": _count("of networks, a task", 20),
            "--points": _count("on a line", 25),
            "--seed": _count("of the pairs", 0),
            "--backend": _backend("of the lines (default: the device's)"),
            "--device": _device("where lines are measured"),
            "--data-root": ROOT,
            "--out": {"help": "folder for connectivity.json and barriers.svg"},
            "--json": TABLE,
        },
    ),
    "search": (
        "the networks of a set that are closest to one",
        {
            "query": STATE,
            "--zoo": {"required": True, "help": "folder of a stored weight set"},
            "--top": _count("networks a chain", 10),
            "--json": JSON,
        },
    ),
    "converge": (
        "do hidden units of two networks answer alike? matches over the data a stored set was trained on",
        {
            "zoo": STORED,
            "--data": DATA_OF,
            "--pairs": _count("of networks, of each kind", 200),
            "--samples": _count("test samples that all networks answer", 512),
            "--clusters": _count("groups of units (default: a fourth of the units)"),
            "--seed": _count("of the pairs and the samples", 0),
            "--backend": _backend("of the correlations (default: the device's)"),
            "--device": _device("where correlations are computed"),
            "--data-root": ROOT,
            "--out": {"help": "folder for converge.json and converge.html (default: runs/ZOO)"},
            "--json": TABLE,
        },
    ),
    "metanetworks": (
        "predict networks' test accuracy from their weights, over sets whose learning rate and epochs vary",
        {
            "zoos": {"nargs": "+", "metavar": "zoo", "help": "folders of generated weight sets of the same tasks"},
            "--seed": _count("of the splits and the models", 0),
            "--backend": BACKEND,
            "--device": KERNELS,
            "--out": {"help": "folder for metanetworks.json and metanetworks.svg"},
            "--json": TABLE,
        },
    ),
    "grid": (
        "features against standard and asymmetric networks: is it the order of units that breaks raw weights?",
        {
            "--data": DATA,
            "--tasks": _count("the first so many tasks", 20),
            "--repeats": _count("networks per task and column", 20),
            "--chain": _count("whose layers all features are of", 2),
            "--pairs": _count("of networks, a task, on whose lines barriers are measured", 5),
            "--classifier": CLASSIFIER,
            "--seed": _count("of networks, splits, pairs and orders", 0),
            "--width": WIDTH,
            "--device": _device("where networks are trained and measured"),
            "--data-root": ROOT,
            "--out": {"help": "folder for grid.json and grid.html (default: runs/grid-DATA)"},
            "--json": TABLE,
        },
    ),
    "info": (
        "of a stored weight set, or versions, backends and data on this machine",
        {"zoo": {"nargs": "?", "help": "folder of a weight set"}, "--data-root": ROOT, "--json": JSON},
    ),
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "wsfast",
        description="Do networks trained from different seeds end up with similar weights?",
        epilog=EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"wsfast {__version__}")
    top.add_argument("--log-json", **LOG)
    commands = top.add_subparsers(dest="command", required=True)
    for name, (purpose, options) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        for option, how in options.items():
            default = "" if how.get("default") is None else " (default: %(default)s)"
            command.add_argument(option, **{**how, "help": how["help"] + default})
        command.add_argument("--log-json", default=argparse.SUPPRESS, **LOG)  # leaves what stands before the command
    return top
