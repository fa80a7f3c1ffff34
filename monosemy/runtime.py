"""What every stage needs from the machine: errors that explain, device and dtype, seeds, progress, a metric log.

Nothing here knows about dictionaries or models. The process-wide state that is touched (torch's matrix-product
precision) is restored on leaving the context that changed it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from functools import cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch

T = TypeVar("T")

VERSIONS_OF = ("monosemy", "torch", "numpy", "numba", "triton", "transformers", "tokenizers", "safetensors")

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class UsageError(Exception):
    """A request that cannot be met. Its text names what, its value, the rule and the way out, on one line."""


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is the first CUDA device, or the CPU where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"`device` (={name!r}) is not a device that torch knows: use auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"`device` (={name!r}) must be auto, cpu or cuda: nothing here is tested on others")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"`device` (={name!r}) needs a GPU, and torch sees {torch.cuda.device_count()}: use cpu")
    return device


def pick_dtype(name: str) -> torch.dtype:
    """The torch dtype called fp32, fp16 or bf16."""
    if name not in DTYPES:
        raise UsageError(f"`dtype` (={name!r}) must be one of {', '.join(DTYPES)}")
    return DTYPES[name]


def settings_of(kind: type[T], options: Mapping[str, Any]) -> T:
    """Settings of this dataclass from keywords. Raises UsageError for a name that it does not have."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(options.keys() - set(names))
    if unknown:
        raise UsageError(f"unknown settings {', '.join(unknown)}; there are {', '.join(names)}")
    return kind(**options)


def check_choices(settings: object, **choices: Iterable[str]) -> None:
    """Raise UsageError for a field that is not one of the words it can be."""
    for name, words in choices.items():
        if getattr(settings, name) not in (allowed := tuple(words)):
            raise UsageError(f"`{name}` (={getattr(settings, name)!r}) must be one of {', '.join(allowed)}")


def seed_for(*parts: object) -> int:
    """A 63-bit seed that depends on every part, so that ("init", 0) and ("noise", 0) are unrelated streams."""
    digest = hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator_for(*parts: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by `seed_for(*parts)`."""
    return torch.Generator(device).manual_seed(seed_for(*parts))


@cache
def medium_products_are_fp32(device_type: str) -> bool:
    """Whether `set_float32_matmul_precision("medium")` keeps fp32 accuracy here (relative error below 1e-6).

    "medium" permits bf16 inside a product. Some CPUs do not use the permission and are up to 2.4 times faster with
    it; others (AMX) and GPUs do use it and lose three digits. One product against float64 tells which.
    """
    generator = generator_for("probe")
    a_BD, b_DN = (torch.randn(*shape, generator=generator) for shape in ((256, 512), (512, 256)))
    exact_BN = a_BD.double() @ b_DN.double()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        product_BN = (a_BD.to(device_type) @ b_DN.to(device_type)).cpu().double()
    finally:
        torch.set_float32_matmul_precision(before)
    return bool((product_BN - exact_BN).norm() / exact_BN.norm() < 1e-6)


@contextmanager
def full_rate_products(device: torch.device) -> Iterator[None]:
    """Run fp32 products at the device's full rate where that costs no accuracy; the user's setting returns after."""
    before = torch.get_float32_matmul_precision()
    try:
        if medium_products_are_fp32(device.type):
            torch.set_float32_matmul_precision("medium")
        yield
    finally:
        torch.set_float32_matmul_precision(before)


Listener = Callable[[str, float, "float | None"], None]
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` of all progress made inside, instead of showing it: label, done, total (None: not known).

    What the listener raises stops the work; this is how a server cancels it.
    """
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


class Progress:
    """A bar with the time left: `with Progress("harvest", total=rows) as bar: bar.advance(64)`.

    On a terminal a live bar; elsewhere one plain line at most every ten seconds, so that logs stay readable.
    Work that ends within two seconds shows nothing. `start` is what an earlier run had already done. With `total` None
    the end is not known, and only what is done is shown.
    """

    QUIET_S, LINE_EVERY_S = 2.0, 10.0

    def __init__(self, label: str, total: float | None, start: float = 0, unit: str = "") -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self.start = start
        self.note = ""

    def __enter__(self) -> Progress:
        self.began = self.last_line = time.monotonic()
        self._bar: Any = None
        return self

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Count `amount` more as done; `note` (a loss, say) is shown beside the bar."""
        self.done += amount
        self.note = note or self.note
        if (listener := _LISTENER.get()) is not None:
            listener(self.label, self.done, self.total)
            return
        now = time.monotonic()
        if now - self.began < self.QUIET_S:
            return
        if sys.stderr.isatty():
            self._draw()
        elif now - self.last_line >= self.LINE_EVERY_S:
            self.last_line = now
            print(self._line(now), file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        rate = (self.done - self.start) / max(now - self.began, 1e-9)
        speed = f"{rate:,.0f} {self.unit or 'steps'}/s"
        if self.total is None:
            return f"{self.label} {self.done:,.0f}  {speed}  {self.note}".rstrip()
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        share = 100 * self.done / max(self.total, 1e-9)
        return f"{self.label} {share:3.0f} %  {speed}  {left:.0f} s left  {self.note}".rstrip()

    def _draw(self) -> None:
        if self._bar is None:
            self._bar = _rich_bar()
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, note="")
        self._bar.update(self._task, completed=self.done, note=self.note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        console=Console(stderr=True),
    )


class MetricLog:
    """`metrics.jsonl`: one JSON object a line. Opened at a step, it drops what a killed run wrote past that step.

    Every line is written whole, so nothing is lost with the process; the file is opened anew for each.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= resume_step]
        path.write_text("".join(kept))
        self._path = path

    def write(self, step: int, metrics: Mapping[str, object]) -> None:
        """Append `metrics` under `step`."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")


def _whole_lines(path: Path) -> list[str]:
    """Lines that end in a newline: a killed writer can leave half a line at the end."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one perhaps shorter (itertools.batched needs Python 3.12)."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def versions() -> dict[str, str]:
    """The versions that bear on a result, for manifests and benchmark records."""
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
