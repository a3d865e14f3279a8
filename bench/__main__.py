"""python -m bench: run every suite, store each in results/, make RESULTS.md and MILLION.md from all of them."""

import argparse
import json
import re
from typing import Any

from bench import (
    bench_chain_kernel,
    bench_classifier,
    bench_correlation,
    bench_interpolate,
    bench_train_cnn,
    bench_train_gru,
    bench_train_mlp,
    million,
    page,
    peak,
)
from wsfast import provenance

SUITES = {
    "train_mlp": bench_train_mlp,
    "train_cnn": bench_train_cnn,
    "train_gru": bench_train_gru,
    "chains": bench_chain_kernel,
    "classifier": bench_classifier,
    "interpolate": bench_interpolate,
    "correlation": bench_correlation,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--page", action="store_true", help="only make the pages again")
    parser.add_argument("--quick", action="store_true", help="two rounds of small cases, printed and not stored")
    parser.add_argument("--only", nargs="+", choices=SUITES, help="these suites")
    options = parser.parse_args()
    if options.page:
        write_pages()
        return
    ceilings = peak.sgemm()
    print(page.ceiling(ceilings), flush=True)
    made_by = provenance.record()
    for part in options.only or SUITES:
        rows = []
        for case in SUITES[part].CASES:
            contest = SUITES[part].contest(SUITES[part].shorter(case) if options.quick else case)
            for _ in range(2 if options.quick else contest.rounds):
                contest.round()
            found = contest.rows(max(ceilings.values()))
            print(page.tables(found), flush=True)
            rows += [{"part": part, "commit": made_by["commit"], **row} for row in found]
        if not options.quick:
            store(made_by, ceilings, part, rows)


def store(made_by: dict[str, Any], ceilings: dict[str, float], part: str, rows: list[dict[str, Any]]) -> None:
    """Put a suite's rows into the day's file of this machine, in place of its earlier ones."""
    machine = re.sub("[^a-z0-9]+", "-", made_by["device"].lower()).strip("-")
    page.RESULTS.mkdir(exist_ok=True)
    file = page.RESULTS / f"{made_by['time'][:10]}-{machine}.json"
    peaks = {part: ceilings}
    if file.exists():
        before = json.loads(file.read_text())
        rows = rows + [row for row in before["rows"] if row["part"] != part]
        rows.sort(key=lambda row: [*SUITES].index(row["part"]))
        peaks = before["peak"] | peaks
    file.write_text(json.dumps({**made_by, "peak": peaks, "rows": rows}, indent=1) + "\n")
    write_pages()


def write_pages() -> None:
    page.write()
    million.write()


if __name__ == "__main__":
    main()
