"""Seconds per training row and peak memory of a whole run on the default model."""

from tests.benchmarks.report import data_parser, print_report, server_with
from tests.support import http_loop


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument("--rows", type=int, default=24)
    arguments = parser.parse_args()
    with server_with(max_length=512) as server:
        server.start()
        client = server.client()
        lines = arguments.data.read_bytes().splitlines(keepends=True)[: arguments.rows]
        http_loop.checked(client.post("/api/v1/import", content=b"".join(lines)))
        run = http_loop.wait_for_run(server, client, http_loop.request_run(client, force=True), seconds=3600)
        print_report("training", {"state": run["state"], "reason": run["reason"], "metrics": run["metrics"]})


if __name__ == "__main__":
    main()
