"""
Join orders with the customers who gave them.
"""

import argparse
from operator import itemgetter
from pathlib import Path

from txmapreduce import Inline, JsonLines, Processes, join

HERE = Path(__file__).parent
KEYS = (itemgetter("customer"), itemgetter("id"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Join orders with the customers who gave them.")
    parser.add_argument("orders", nargs="?", type=Path, default=HERE / "orders.jsonl", help="JSON lines")
    parser.add_argument("customers", nargs="?", type=Path, default=HERE / "customers.jsonl", help="JSON lines")
    parser.add_argument("--how", choices=["inner", "left", "right", "outer"], default="inner", help="default: inner")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores; 0: in this process)")
    args = parser.parse_args()

    job = join(JsonLines(args.orders), JsonLines(args.customers), how=args.how, key=KEYS)
    for number, (order, customer) in job.stream(backend=Inline() if args.workers == 0 else Processes(args.workers)):
        name = customer["name"] if customer else "-"
        item = order["item"] if order else "-"
        print(number, name, item, sep="\t")


if __name__ == "__main__":
    main()
