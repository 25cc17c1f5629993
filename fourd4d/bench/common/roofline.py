"""The least time of a compiled program: its own operations, bytes and exchanges at a chip's peaks.

XLA's cost analysis counts one turn of a loop and nothing of a kernel; so the optimised program's
text is read instead, loops times their trip counts.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from fourd4d.bench.common.accelerators import Chip

_BITS: Final = {"pred": 8, "token": 0, "bf16": 16}
_SHAPE: Final = re.compile(r"\b(pred|token|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\](\{[^{}]*\})?")
_HEAD: Final = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE: Final = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_CALLS: Final = re.compile(r"\b(calls|to_apply|body|condition|true_computation|"
                           r"false_computation)=%?([\w.\-]+)")
_EXCHANGES: Final = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all",
                     "ragged-all-to-all", "collective-permute", "collective-broadcast")
# They move nothing: views, bookkeeping, and the second half of what was started before.
_FREE: Final = frozenset((
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id",
    "after-all", "iota", "opt-barrier", "domain", "add-dependency"))
# Products of queries by keys by width in a kernel: of the forward pass, and of each half of the
# backward pass, which computes the scores again; of cuDNN's, whose backward pass is one.
_KERNELS: Final = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
_FORWARD, _BACKWARD = 2, 5


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program.

    Attributes:
      result: its type, with the layout.
      operands: names of what it takes.
      rest: what follows the operands.
    """

    name: str
    result: str
    code: str
    operands: tuple[str, ...]
    inner: str
    rest: str
    root: bool


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one device does.

    Attributes:
      flops: of matrix products and convolutions; a multiply-add is two.
      hbm_bytes: read from and written to its memory by what is not fused.
      sent_bytes: to other devices, by kind of exchange.
    """

    flops: float = 0.0
    hbm_bytes: float = 0.0
    sent_bytes: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __add__(self, other: Cost) -> Cost:
        sent = collections.Counter(self.sent_bytes)
        sent.update(other.sent_bytes)  # Counters hold any numbers.
        return Cost(self.flops + other.flops, self.hbm_bytes + other.hbm_bytes, dict(sent))

    def __mul__(self, times: float | int) -> Cost:
        return Cost(self.flops * times, self.hbm_bytes * times,
                    {kind: size * times for kind, size in self.sent_bytes.items()})

    def seconds(self, chip: Chip) -> dict[str, float]:
        """Time of each at the chip's peak, and the largest of them: the least time of a run.

        Exchanges are taken to use all links of a chip at once.
        """
        found = {"compute_seconds": self.flops / chip.peak_flops,
                 "memory_seconds": self.hbm_bytes / chip.bandwidth,
                 "ici_seconds": sum(self.sent_bytes.values()) / chip.ici}
        return {**found, "roofline_seconds": max(found.values())}


def cost(text: str, turns: int = 1) -> Cost:
    """The cost of one run of a compiled program, from ``compiled.as_text()``.

    Args:
      turns: of a loop whose trip count depends on data.
    """
    computations, entry = parse(text)
    return _Reader(computations, turns).cost(entry)


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """(computations by name, the entry's name)."""
    joined: list[str] = []
    for line in text.splitlines():  # Metadata of kernels breaks lines.
        if line.startswith(("HloModule", "}")) and not line.startswith("}}") or (
                _LINE.match(line) or _HEAD.match(line)):
            joined.append(line)
        elif joined:
            joined[-1] += line
    computations: dict[str, list[Instruction]] = {}
    entry, own = "", []
    for line in joined:
        head, found = _HEAD.match(line), _LINE.match(line)
        if found:
            own.append(_instruction(found))
        elif head:
            own = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
    return computations, entry


def _instruction(found: re.Match[str]) -> Instruction:
    text = found[3]
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    result, text = text[:end], text[end:].lstrip()
    start = text.index("(")
    end = _closing(text, start)
    inner = text[start + 1:end]
    return Instruction(found[2], result, text[:start], tuple(re.findall(r"%([\w.\-]+)", inner)),
                       inner, text[end + 1:], bool(found[1]))


def _closing(text: str, start: int) -> int:
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if not depth:
            return at
    raise ValueError(f"no closing bracket in {text[:80]!r}")


def shapes(result: str) -> list[tuple[str, tuple[int, ...], str]]:
    """(dtype, sizes, layout) of every array of a type."""
    return [(dtype, tuple(int(n) for n in sizes.split(",") if n), layout or "")
            for dtype, sizes, layout in _SHAPE.findall(result)]


def _bytes(result: str, *, everywhere: bool = False) -> float:
    """Bytes of a type; only what lies in the device's main memory, unless ``everywhere``."""
    total = 0.0
    for dtype, sizes, layout in shapes(result):
        if everywhere or not re.search(r"S\([1-9]\d*\)", layout):
            bits = _BITS.get(dtype) if dtype in _BITS else int(
                (re.search(r"\d+", dtype) or ["32"])[0])
            total += math.prod(sizes) * (bits or 0) / 8
    return total


class _Reader:
    def __init__(self, computations: Mapping[str, list[Instruction]], turns: int):
        self._all, self._turns = computations, turns
        self._named = {name: {x.name: x for x in own} for name, own in computations.items()}
        self._known: dict[str, Cost] = {}

    def cost(self, name: str) -> Cost:
        if name not in self._known:
            self._known[name] = sum((self._one(x, name) for x in self._all[name]), Cost())
        return self._known[name]

    def _one(self, x: Instruction, within: str) -> Cost:
        called: dict[str, str] = dict(_CALLS.findall(x.rest))
        if x.code == "while":
            turns = self._trips(x, within, called["condition"], called["body"])
            return self.cost(called["body"]) * turns
        if x.code == "conditional":
            names = [called[k] for k in ("true_computation", "false_computation") if k in called]
            listed = re.search(r"branch_computations=\{([^}]*)\}", x.rest)
            names += re.findall(r"%?([\w.\-]+)", listed[1]) if listed else []
            costs = [self.cost(name) for name in names]
            kinds = {kind for c in costs for kind in c.sent_bytes}
            return Cost(max(c.flops for c in costs), max(c.hbm_bytes for c in costs),
                        {k: max(c.sent_bytes.get(k, 0.0) for c in costs) for k in kinds})
        if x.code in ("call", "async-start") and ("calls" in called or "to_apply" in called):
            return self.cost(called.get("calls") or called["to_apply"])
        kind = x.code.removesuffix("-start")
        if kind in _EXCHANGES:
            size = self._sent(x, within)
            return Cost(0.0, self._moved(x, within), {kind: size} if size else {})
        if x.code == "fusion":
            inside = self._inside(called["calls"])
            return inside + Cost(0.0, self._fused(x, within, called["calls"]))
        if x.code in _FREE or x.code.endswith(("-done", "-update")):
            return Cost()
        return Cost(self._flops(x, within), self._moved(x, within))

    def _inside(self, name: str) -> Cost:
        """Products and exchanges of a fused computation; what it holds costs no memory's time."""
        total = Cost()
        for x in self._all[name]:
            kind = x.code.removesuffix("-start")
            if kind in _EXCHANGES:
                # Steps of an exchange that goes on behind others: it is counted where it starts.
                flag = re.search(r'"flag_start":"(-?\d+)"', x.rest)
                if flag is None or flag[1] == "-1":
                    scattered = kind == "all-reduce" and any(
                        y.code == "dynamic-slice" and x.name in y.operands for y in self._all[name])
                    total += Cost(sent_bytes={
                        "reduce-scatter" if scattered else kind:
                        self._sent(x, name) / (2 if scattered else 1)})
            elif x.code == "fusion":
                total += self._inside(dict(_CALLS.findall(x.rest))["calls"])
            else:
                total += Cost(self._flops(x, name))
        return total

    def _trips(self, x: Instruction, within: str, condition: str, body: str) -> int:
        known = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', x.rest)
        if known:
            return int(known[1])
        own = self._named[condition]
        test = next(y for y in own.values() if y.root)
        direction = re.search(r"direction=(\w+)", test.rest)
        if test.code != "compare" or direction is None or direction[1] not in ("LT", "LE"):
            return self._turns
        counter, limit = (own[name] for name in test.operands)
        number = re.search(r"index=(\d+)", counter.rest)
        last = _constant(limit)
        if counter.code != "get-tuple-element" or number is None or last is None:
            return self._turns
        place = int(number[1])
        first = self._number(within, self._element(within, x.operands[0], place))
        ended = next(y for y in self._all[body] if y.root)
        step = self._step(body, self._element(body, ended.name, place), place)
        if first is None or not step:
            return self._turns
        return max(-(-(last + (direction[1] == "LE") - first) // step), 0)

    def _element(self, within: str, name: str, place: int) -> str:
        """What a tuple holds at a place."""
        x = self._named[within][name]
        while x.code in ("bitcast", "copy", "opt-barrier"):
            x = self._named[within][x.operands[0]]
        return x.operands[place] if x.code == "tuple" else ""

    def _number(self, within: str, name: str) -> int | None:
        x = self._named[within].get(name)
        while x is not None and x.code in ("copy", "bitcast", "convert", "copy-done", "copy-start"):
            x = self._named[within].get(x.operands[0])
        return None if x is None else _constant(x)

    def _step(self, body: str, name: str, place: int) -> int | None:
        """By how much a loop's counter grows in a turn."""
        x, total = self._named[body].get(name), 0
        while x is not None:
            if x.code == "get-tuple-element":
                own = re.search(r"index=(\d+)", x.rest)
                return total if own and int(own[1]) == place else None
            if x.code == "fusion":
                called = dict(_CALLS.findall(x.rest))["calls"]
                inner = next(y for y in self._all[called] if y.root)
                if inner.code != "add":
                    return None
                grown = next(filter(None, (_constant(self._named[called][o])
                                           for o in inner.operands)), None)
                if grown is None:
                    return None
                total, x = total + grown, self._named[body].get(x.operands[0])
                continue
            if x.code == "add":
                constants = [self._number(body, o) for o in x.operands]
                known = [c for c in constants if c is not None]
                if len(known) != 1:
                    return None
                total += known[0]
                x = self._named[body].get(x.operands[constants.index(None)])
            elif x.code in ("copy", "bitcast", "copy-done", "copy-start"):
                x = self._named[body].get(x.operands[0])
            else:
                return None
        return None

    def _type(self, within: str, name: str) -> str:
        x = self._named[within].get(name)
        return "" if x is None else x.result

    def _moved(self, x: Instruction, within: str) -> float:
        """Bytes of main memory that an instruction by itself reads and writes."""
        if x.code in ("dynamic-slice", "slice", "gather"):  # Only what is taken.
            own = _bytes(x.result)
            return own + min(own, _bytes(self._type(within, x.operands[0])))
        if x.code in ("dynamic-update-slice", "scatter"):  # In place.
            return 2 * _bytes(self._type(within, x.operands[-1 if x.code == "scatter" else 1]))
        if x.code == "copy-start":  # The result lists the copy, what is copied and a flag.
            return _bytes(x.result)
        if x.code.removesuffix("-start") in _EXCHANGES and x.code.endswith("-start"):
            return _bytes(x.result)
        return _bytes(x.result) + sum(_bytes(self._type(within, o)) for o in x.operands)

    def _fused(self, x: Instruction, within: str, name: str) -> float:
        """The same of a fusion: what it slices or updates in place counts as such."""
        own = self._all[name]
        results = shapes(x.result)
        total = 0.0
        parameters = {y.name: int(y.inner) for y in own if y.code == "parameter"}
        updated: set[str] = set()
        for y in own:
            if y.code == "dynamic-update-slice" and y.operands[0] in parameters:
                updated.add(y.operands[0])
                size = math.prod(shapes(self._type(name, y.operands[1]))[0][1])
                whole = math.prod(shapes(y.result)[0][1])
                outside = _bytes(self._type(within, x.operands[parameters[y.operands[0]]]))
                total += 2 * outside * size / max(whole, 1)
        for param, place in parameters.items():
            if param in updated or place >= len(x.operands):
                continue
            outside = _bytes(self._type(within, x.operands[place]))
            users = [y for y in own if param in y.operands]
            if outside and users and all(y.code in ("dynamic-slice", "slice", "gather")
                                         and y.operands[0] == param for y in users):
                whole = math.prod(shapes(self._type(name, param))[0][1])
                taken = sum(math.prod(shapes(y.result)[0][1]) for y in users)
                outside *= min(taken / max(whole, 1), 1.0)
            total += outside
        aliased = {int(n or 0) for n in re.findall(
            r"\{(\d*)\}: \(\d+, \{\d*\}", x.rest.partition("output_to_operand_aliasing=")[2])}
        if not updated or len(results) > 1:
            outputs = sum(_bytes(_text(result)) for place, result in enumerate(results)
                          if place not in aliased)
            total += max(outputs - sum(
                _bytes(self._type(within, x.operands[parameters[p]])) for p in updated), 0.0)
        return total

    def _sent(self, x: Instruction, within: str) -> float:
        """Bytes that a device sends by the shortest way around a ring of its group."""
        kind = x.code.removesuffix("-start")
        given = sum(_bytes(self._type(within, o), everywhere=True) for o in x.operands)
        if kind in ("collective-permute", "collective-broadcast"):
            return given
        n = group_size(x.rest)
        if kind == "all-gather":
            return given * (n - 1)
        return given * (n - 1) / n * (2 if kind == "all-reduce" else 1)

    def _flops(self, x: Instruction, within: str) -> float:
        if x.code == "dot":
            left = shapes(self._type(within, x.operands[0]))[0][1]
            axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.rest)
            contracted = [left[int(a)] for a in (axes[1] if axes else "").split(",") if a]
            return 2.0 * math.prod(shapes(x.result)[0][1]) * math.prod(contracted)
        if x.code == "convolution":
            left, right = (shapes(self._type(within, o))[0][1] for o in x.operands[:2])
            return _convolution(left, right, shapes(x.result)[0][1], x.rest)
        if x.code == "custom-call":
            return self._kernel(x, within)
        return 0.0

    def _kernel(self, x: Instruction, within: str) -> float:
        if "__cudnn$fmha" in x.rest:
            (*rows, queries, heads, width), (*_, keys, _, _) = [
                shapes(self._type(within, o))[0][1] for o in x.operands[:2]]
            products = _BACKWARD if "Backward" in x.rest.partition("metadata=")[0] else _FORWARD
            return 2.0 * products * math.prod(rows) * heads * queries * keys * width
        found = next((n for name, n in _KERNELS.items() if name in x.name + x.rest), None)
        if found is None or "tpu_custom_call" not in x.rest:
            return 0.0
        types = [shape for o in x.operands for shape in shapes(self._type(within, o))]
        (*rows, heads, queries, width), (*_, keys, _) = [
            sizes for dtype, sizes, _ in types if dtype in ("bf16", "f32") and len(sizes) >= 3][:2]
        whole = 2.0 * found * math.prod(rows) * heads * queries * keys * width
        # Beside segments of both sides, places of queries are given where later keys are masked.
        causal = sum(dtype == "s32" for dtype, _, _ in types) == 3
        return whole / 2 if causal else whole


def _text(shape: tuple[str, tuple[int, ...], str]) -> str:
    dtype, sizes, layout = shape
    return f"{dtype}[{','.join(map(str, sizes))}]{layout}"


def _constant(x: Instruction) -> int | None:
    return int(x.inner) if x.code == "constant" and re.fullmatch(r"-?\d+", x.inner) else None


def group_size(rest: str) -> int:
    """Devices of a group in which a collective exchanges."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    if listed:
        return listed[1].count(",") + 1
    tiled = re.search(r"replica_groups=\[\d+,(\d+)\]", rest)
    if tiled:
        return int(tiled[1])
    meshed = re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest)
    if meshed:
        sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", meshed[1])}
        return math.prod(int(part or sizes[name]) for name, part in re.findall(
            r"'([^']+)'(?::\(\d+\)(\d+))?", meshed[2]))
    return 1


def _convolution(left: Sequence[int], right: Sequence[int], out: Sequence[int], rest: str
                 ) -> float:
    """Operations that meet real entries: batch axes come as windows over dilated zeros."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest)
    assert labels is not None
    total = 2.0 * out[labels[3].index("b")] * out[labels[3].index("f")] * right[
        labels[2].index("i")]
    window = re.search(r"window=\{([^}]*)\}", rest)
    fields = dict(re.findall(r"(\w+)=(\S+)", window[1])) if window else {}
    for axis in itertools.count():
        name = str(axis)
        if name not in labels[1]:
            break

        def of(field: str, default: str, axis: int = axis) -> str:
            return fields[field].split("x")[axis] if field in fields else default

        low = int(of("pad", "0_0").split("_")[0])
        total *= _pairs(left[labels[1].index(name)], right[labels[2].index(name)],
                        out[labels[3].index(name)], int(of("stride", "1")), low,
                        int(of("lhs_dilate", "1")), int(of("rhs_dilate", "1")))
    return total


@functools.cache
def _pairs(size: int, kernel: int, out: int, stride: int, low: int, spread: int, apart: int) -> int:
    """(output, kernel) positions along an axis at which there is an entry of the input."""
    if kernel == 1 and not low and spread == 1:
        return out
    last = (size - 1) * spread
    return sum(0 <= at <= last and at % spread == 0 for o in range(out)
               for at in range(o * stride - low, o * stride - low + kernel * apart, apart))
