"""Seconds from `thumbloop serve` to ready: at the first start, which converts the model, and after."""

import time

from tests.benchmarks.report import print_report, server_with


def main(repeats: int = 3) -> None:
    with server_with() as server:
        seconds = []
        for _ in range(1 + repeats):
            began = time.monotonic()
            server.start()
            seconds.append(round(time.monotonic() - began, 2))
            server.stop()
    print_report("startup", {"first_start_s": seconds[0], "later_starts_s": seconds[1:]})


if __name__ == "__main__":
    main()
