"""
Join orders with the customers who gave them.
"""

import argparse
import json
from pathlib import Path

from txmapreduce import Inline, Processes, TextFiles, join

HERE = Path(__file__).parent


def customer(line: str) -> int:
    return int(json.loads(line)["customer"])


def number(line: str) -> int:
    return int(json.loads(line)["id"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Join orders with the customers who gave them.")
    parser.add_argument("orders", nargs="?", type=Path, default=HERE / "orders.jsonl", help="JSON lines")
    parser.add_argument("customers", nargs="?", type=Path, default=HERE / "customers.jsonl", help="JSON lines")
    parser.add_argument("--how", choices=["inner", "left", "right", "outer"], default="inner", help="default: inner")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores; 0: in this process)")
    args = parser.parse_args()

    job = join(TextFiles(args.orders), TextFiles(args.customers), how=args.how, key=(customer, number))
    for key, (order, person) in job.stream(backend=Inline() if args.workers == 0 else Processes(args.workers)):
        name = json.loads(person)["name"] if person else "-"
        item = json.loads(order)["item"] if order else "-"
        print(key, name, item, sep="\t")


if __name__ == "__main__":
    main()
