"""Dated records of benchmarks: the figures, and what is needed to get them again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from monosemy.runtime import versions

RECORDS = Path(__file__).parent / "records"


def write_record(
    name: str, rows: Sequence[Mapping[str, Any]], command: str, *more: Sequence[Mapping[str, Any]]
) -> Path:
    """Write `rows` as a table and as JSON lines to `records/YYYY-MM-DD-<name>.md`, `more` tables after it; the file.

    A second run on the same day replaces the first.
    """
    now = datetime.now(UTC)
    about = [
        f"- date: {now.isoformat(timespec='minutes')}",
        f"- command: `{command}`",
        f"- commit: {BEGAN_WITH}",
        f"- machine: {machine()}",
        f"- versions: {', '.join(f'{package} {version}' for package, version in versions().items())}",
    ]
    lines = [f"# {name}", "", *about]
    for part in (rows, *more):
        lines += ["", *table(part), "", "```json", *(json.dumps(dict(row)) for row in part), "```"]
    RECORDS.mkdir(exist_ok=True)
    file = RECORDS / f"{now:%Y-%m-%d}-{name}.md"
    file.write_text("\n".join(lines) + "\n")
    return file


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as lines of a markdown table; the columns are the first row's."""
    columns = list(rows[0])
    body = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *body]) for i in range(len(columns))]
    lined = [
        " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in [columns, *body]
    ]
    rule = " | ".join("-" * width for width in widths)
    return [f"| {line} |" for line in [lined[0], rule, *lined[1:]]]


def commit(folder: Path = RECORDS.parent) -> str:
    """The commit that the code in `folder` is of, "+ changes" where it is not quite that; "unknown" outside git.

    Records do not count as changes: several benchmarks run one after the other.
    """
    try:
        short = _git(folder, "rev-parse", "--short", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--", ":/", f":(exclude){RECORDS.name}")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{short} + changes" if changed else short


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def machine() -> str:
    """The processor, its threads here, and the GPU if there is one."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads{gpu}"


BEGAN_WITH = commit()  # as it is when a benchmark begins; by its end the tree may be another


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    place = f"family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else ""
    extensions = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in fields.get("flags", "")]
    return f"{fields['model name']} ({place}; {' '.join(extensions)})"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
