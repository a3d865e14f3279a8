"""python -m bench.gpu: measure everything on this machine's GPU, store it, make GPU.md from all that is stored."""

import argparse
import json
import os
import re
import sys
from datetime import date
from pathlib import Path

from bench.gpu import cases, page, runner


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, help="the JSON file; default: bench/results/gpu-<date>-<card>.json")
    parser.add_argument("--minutes", type=float, default=8, help="no case starts or goes on after so many minutes")
    parser.add_argument("--quick", action="store_true", help="without the headlines and the second half of the cases")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU: does the script work?")
    parser.add_argument("--only", nargs="+", choices=cases.ORDER, help="these cases, the file's others being kept")
    parser.add_argument("--page", action="store_true", help="only make GPU.md again")
    for name in ("--case", "--given", "--part"):  # one case in a process of its own
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--peers-only", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def one(options: argparse.Namespace, device: str) -> None:
    """A single case, for runner.child. Written under another name first: a killed process leaves whole files."""
    part = Path(options.part)

    def save(found: runner.Part) -> None:
        part.with_suffix(".new").write_text(json.dumps(found))
        part.with_suffix(".new").replace(part)

    ceilings = json.loads(Path(options.given).read_text())
    save(runner.work(options.case, device, options.smoke, ceilings, options.peers_only, save))


def earlier(out: Path) -> runner.Part | None:
    """The run in this file, if it is one of this commit."""
    from wsfast import provenance

    if not out.is_file():
        return None
    run, now = json.loads(out.read_text()), provenance.commit()
    if (run["commit"] or "").rstrip("+") != (now or "").rstrip("+"):  # the page that it made is a change, too
        sys.exit(f"bench.gpu: {out} was measured at commit {run['commit']}: name another with --out, or remove it")
    return run


def main() -> None:
    options = parse()
    if options.page:
        page.write()
        return
    if options.smoke:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    device = "cpu" if options.smoke else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("bench.gpu: torch finds no CUDA device (--smoke tries the script on a CPU)")
    if options.case:
        one(options, device)
        return
    order = cases.SMOKE_ORDER if options.smoke else cases.ORDER
    if options.quick:
        order = [name for name in order[:7] if name not in runner.HEADLINES]
    card = "cpu" if options.smoke else re.sub("[^a-z0-9]+", "-", torch.cuda.get_device_name().lower())
    default = page.RESULTS / f"gpu-{date.today()}-{card}.json"
    out = options.out or (Path("/dev/null") if options.smoke else default)
    before = None
    if options.only:
        before = earlier(out)
        first = ["compile"] if before and before["ceilings"] else cases.FIRST
        order = [name for name in order if name in (*first, *options.only)]
    run = runner.everything(order, device, options.smoke, options.minutes, out, before=before)
    print(page.run_text(run))
    if out.resolve().parent == page.RESULTS:
        page.write()
    wrong = runner.failures(run)
    print(f"{run['minutes']:.1f} minutes, stored in {out}", *wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
