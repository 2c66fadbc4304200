"""Prune every architecture of the registry and write docs/coverage.md.

Each one runs in a process of its own, with a limit on time and memory:

    python -m benchmarks.coverage                          # everything, about an hour
    python -m benchmarks.coverage --set timm --limit 10
    python -m benchmarks.coverage --only torchvision:resnet18
    python -m benchmarks.coverage --resume                 # what is not on record yet
    python -m benchmarks.coverage --failed                 # what did not go well last time
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import fnmatch
import json
import statistics
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, heading, machine, markdown_table, run_limited

sys.path.insert(0, str(ROOT / "tests"))

import architectures

PAGE = ROOT / "docs" / "coverage.md"
DATA = ROOT / "docs" / "coverage.json"
TOLERANCE = 1e-4
TITLES = {
    "torchvision": "torchvision, classification",
    "segmentation": "torchvision, segmentation",
    "timm": "timm, the smallest member of every family",
    "hf": "Hugging Face, from configuration",
    "yolo": "YOLO-style detectors",
}

Record = dict[str, Any]


def exact(record: Record) -> bool:
    """Whether the pruned model equals the masked one."""
    return (
        record.get("status") == "pruned"
        and record.get("parity") is not None
        and record["parity"] <= min(TOLERANCE, record["change"] / 100, record["signal"] / 100)
        and record.get("finite", False)
    )


def learns(record: Record) -> bool:
    """Whether forward and backward run after pruning, in eval and in training mode."""
    return record.get("status") == "pruned" and not (record["backward"] or record["training"])


def good(record: Record) -> bool:
    """Whether there is nothing to look into."""
    return exact(record) and learns(record) and bool(record.get("met"))


def verdict(record: Record) -> str:
    """Say in a few words how it went."""
    status = record.get("status")
    if status == "nothing":
        return "nothing pruned"
    if status != "pruned":
        return record.get("failure") or record.get("error", "failed").split(":")[0]
    if not exact(record):
        return "not exact"
    if record["backward"] or record["training"]:
        return "no backward pass" if record["backward"] else "no training step"
    return "exact" if record["met"] else "exact, budget not met"


def _count(part: int, whole: int) -> str:
    return f"{part} of {whole}"


def _millions(number: float) -> str:
    return f"{number / 1e6:,.1f}"


def summary(records: dict[str, Record]) -> str:
    """One line a set, and one for all."""
    rows = []
    for kind in (*architectures.SETS, None):
        chosen = [r for n, r in records.items() if kind is None or n.startswith(f"{kind}:")]
        if not chosen:
            continue
        number = len(chosen)
        pruned = [r for r in chosen if r.get("status") == "pruned"]
        ended = [r for r in chosen if r.get("status") in ("pruned", "nothing")]
        seconds = [r["seconds"] for r in pruned]
        rows.append(
            [
                TITLES[kind] if kind else "**all**",
                _count(len(ended), number),
                _count(sum(map(exact, chosen)), number),
                _count(sum(map(learns, chosen)), number),
                _count(sum(bool(r.get("met")) for r in chosen), number),
                f"{statistics.median(seconds):.1f}" if seconds else "",
            ]
        )
    columns = ["set", "no crash", "exact", "trains on", "budget met", "median seconds"]
    return markdown_table(columns, rows)


def table(kind: str, records: dict[str, Record]) -> str:
    """One line an architecture."""
    rows = []
    for name, item in architectures.architectures().items():
        record = records.get(name)
        if item.set != kind or record is None:
            continue
        left = f"{record['ratio']:.3f}" if "ratio" in record else ""
        parity = f"{record['parity']:.0e}" if record.get("parity") is not None else ""
        seconds = f"{record['seconds']:.1f}" if "seconds" in record else ""
        rows.append(
            [
                item.model,
                _millions(item.parameters),
                _millions(item.macs),
                left,
                parity,
                seconds,
                verdict(record),
            ]
        )
    columns = ["model", "M parameters", "M MACs", "MACs left", "parity error", "seconds", "result"]
    return markdown_table(columns, rows)


def reasons(records: dict[str, Record]) -> str:
    """Why dimensions were protected, counted, and what stands in the way of the budget."""
    parts = []
    missed = [(n, r) for n, r in records.items() if r.get("why_not")]
    if missed:
        parts.append("## Budgets that were not met\n")
        for name, record in missed:
            lines = [f"- **{name}**: {record['why_not']}"]
            lines += [f"    - `{who}`: {why}" for who, why in record.get("protected", [])[:5]]
            parts.append("\n".join(lines))
        parts.append("")
    counts: collections.Counter[str] = collections.Counter()
    where: dict[str, set[str]] = collections.defaultdict(set)
    for name, record in records.items():
        for why, number in record.get("reasons", {}).items():
            counts[why] += number
            where[why].add(name)
    if counts:
        parts.append("## Why dimensions were protected\n")
        rows = [[why, n, len(where[why])] for why, n in counts.most_common(60)]
        parts.append(markdown_table(["reason", "dimensions", "architectures"], rows))
    failed = [(n, r) for n, r in records.items() if verdict(r) not in ("exact",)]
    failed = [(n, r) for n, r in failed if not verdict(r).startswith("exact")]
    if failed:
        parts.append("\n## What failed\n")
        for name, record in failed:
            detail = record.get("error") or record.get("backward") or record.get("training")
            parts.append(f"- **{name}**: {verdict(record)}" + (f" ({detail})" if detail else ""))
    return "\n".join(parts)


def page(where: dict[str, Any], settings: dict[str, Any], records: dict[str, Record]) -> str:
    """Lay the whole page out."""
    number = len(records)
    rates = {
        "exact": sum(map(exact, records.values())) / max(number, 1),
        "at the budget": sum(bool(r.get("met")) for r in records.values()) / max(number, 1),
    }
    parts = [
        "# Coverage",
        "",
        f'{number} architectures with random weights, pruned to `budget={{"macs": '
        f"{settings['budget']}}}` by `{settings['criterion']}`. Norm weights, biases, layer scales "
        "and running statistics are randomised first: fresh ones and zeros hide permuted indices. "
        "*Exact* means that the smaller model equals the masked one to "
        f"{TOLERANCE:g} of its largest output, and to a hundredth both of what pruning changed and "
        "of what two inputs differ by; *trains on*, that forward and backward run afterwards, in "
        "eval and in training mode. The whole call is timed, verification included, and the input "
        "has two examples.",
        "",
        ", ".join(f"{rate:.1%} {what}" for what, rate in rates.items()) + ".",
        "",
        summary(records),
        "",
        f"Measured on {heading(where)}. Made by `make coverage`.",
        "",
    ]
    for kind in architectures.SETS:
        if any(name.startswith(f"{kind}:") for name in records):
            parts += [f"## {TITLES[kind]}", "", table(kind, records), ""]
    parts.append(reasons(records))
    return "\n".join(parts).rstrip() + "\n"


def choose(options: argparse.Namespace, records: dict[str, Record]) -> list[str]:
    """Return the names to run, cheap ones first within the sets."""
    items = architectures.architectures()
    names = [n for n in items if not options.set or items[n].set in options.set]
    if options.only:
        patterns = [p if ":" in p else f"*:{p}" for p in options.only]
        names = [n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns)]
        if not names:
            raise SystemExit(f"no architecture matches {', '.join(options.only)}")
    if options.resume:
        names = [n for n in names if n not in records]
    if options.failed:
        names = [n for n in names if n in records and not good(records[n])]
    return names[: options.limit]


def read(path: Path) -> dict[str, Record]:
    """Read the records of earlier runs, if there are any."""
    return json.loads(path.read_text())["records"] if path.exists() else {}


def lay_out(where: dict[str, Any], settings: dict[str, Any], records: dict[str, Record]) -> str:
    """Write JSON with one line an architecture."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(r)}" for name, r in records.items())
    head = f'"machine": {json.dumps(where)},\n"settings": {json.dumps(settings)}'
    return f'{{\n{head},\n"records": {{\n{lines}\n}}\n}}\n'


def parse(arguments: Iterable[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", choices=architectures.SETS)
    parser.add_argument("--only", action="append", metavar="NAME", help="a name or a pattern")
    parser.add_argument("--limit", type=int, help="at most this many")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--threads", type=int, default=1, help="threads a process")
    parser.add_argument("--seconds", type=float, default=300, help="time limit of each")
    parser.add_argument("--memory", type=float, default=10, help="memory limit of each, in GiB")
    parser.add_argument("--budget", type=float, default=0.5, help="MACs that may remain")
    parser.add_argument("--criterion", default="magnitude")
    parser.add_argument("--resume", action="store_true", help="keep what is on record")
    parser.add_argument("--failed", action="store_true", help="only what did not go well")
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    parser.add_argument("--data", type=Path, default=DATA, help="where the records are kept")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page")
    return parser.parse_args(arguments)


def main(arguments: Iterable[str] | None = None) -> int:
    options = parse(arguments)
    where = machine(options.threads, ("torchvision", "timm", "transformers"))
    settings = {"budget": options.budget, "criterion": options.criterion}
    records = read(options.data)
    names = [] if options.page else choose(options, records)
    print(heading(where))
    lock = threading.Lock()
    done = 0

    def write() -> None:
        kept = {n: records[n] for n in architectures.names() if n in records}
        options.data.parent.mkdir(parents=True, exist_ok=True)
        options.data.write_text(lay_out(where, settings, kept))
        options.out.write_text(page(where, settings, kept))

    def one(name: str) -> None:
        nonlocal done
        outcome = run_limited(
            "benchmarks.coverage_one",
            [name, str(options.budget), options.criterion],
            seconds=options.seconds,
            memory_gb=options.memory,
            threads=options.threads,
        )
        record = outcome.value or {
            "status": "failed",
            "failure": outcome.failure,
            "error": outcome.log.strip().splitlines()[-1] if outcome.log.strip() else "",
            "traceback": outcome.log[-4000:],
        }
        record["peak_mb"] = round(outcome.peak_mb)
        with lock:
            done += 1
            records[name] = record
            left = f"{record['ratio']:.3f}" if "ratio" in record else "-"
            parity = f"{record['parity']:.0e}" if record.get("parity") is not None else "-"
            print(
                f"[{done}/{len(names)}] {name}: {verdict(record)}, MACs left {left}, "
                f"parity {parity}, {outcome.seconds:.0f} s, {outcome.peak_mb:.0f} MB",
                flush=True,
            )
            write()

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, names))
    write()
    print()
    print(summary(records))
    chosen = {name: records[name] for name in names} or records
    return 0 if all(r.get("status") in ("pruned", "nothing") for r in chosen.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
