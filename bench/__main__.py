"""python -m bench: run everything, store it in results/, make RESULTS.md from all that is stored there."""

import argparse
import json
import re

from bench import bench_chain_kernel, bench_classifier, bench_train_cnn, bench_train_gru, bench_train_mlp, page, peak
from wsfast import provenance


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--page", action="store_true", help="only make RESULTS.md again")
    parser.add_argument("--quick", action="store_true", help="two rounds of small cases, printed and not stored")
    options = parser.parse_args()
    if options.page:
        page.write()
        return
    ceilings = peak.sgemm()
    print(page.ceiling(ceilings), flush=True)
    rows = []
    for suite in (bench_train_mlp, bench_train_cnn, bench_train_gru, bench_chain_kernel, bench_classifier):
        for case in suite.CASES:
            contest = suite.contest(suite.shorter(case) if options.quick else case)
            for _ in range(2 if options.quick else contest.rounds):
                contest.round()
            found = contest.rows(max(ceilings.values()))
            print(page.tables(found), flush=True)
            rows += found
    if options.quick:
        return
    run = {**provenance.record(), "peak": ceilings, "rows": rows}
    machine = re.sub("[^a-z0-9]+", "-", run["device"].lower()).strip("-")
    page.RESULTS.mkdir(exist_ok=True)
    (page.RESULTS / f"{run['time'][:10]}-{machine}.json").write_text(json.dumps(run, indent=1) + "\n")
    page.write()


if __name__ == "__main__":
    main()
