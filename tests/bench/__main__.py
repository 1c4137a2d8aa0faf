"""``python -m tests.bench``: tables of CPU time and ratios, measured side by side."""

from __future__ import annotations

import argparse

from tests.bench import postgresql, ssh

SUITES = {"postgresql": postgresql.run, "ssh": ssh.run}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("suite", nargs="*", choices=SUITES, default=[*SUITES])
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is told")
    parser.add_argument("--sessions", type=int, default=1000, help="idle ones, for their memory")
    asked = parser.parse_args()
    for suite in asked.suite:
        for table in SUITES[suite](asked.seconds, asked.rounds, asked.sessions):
            print("\n".join(table.lines()), flush=True)


if __name__ == "__main__":
    main()
