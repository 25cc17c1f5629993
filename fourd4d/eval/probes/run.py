"""Runs a checkpoint's own answers again, with something else in place of what it imagined.

The weights, the questions, the random keys and so the words up to the first mental image are those
of the plain run; only what is fed differs. One compiled program serves the plain run and every
table of ``tables.ARMS``.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from fourd4d.core.errors import InputError
from fourd4d.core.rollout import Rollout
from fourd4d.data.source import Source
from fourd4d.eval.heatmap_store import MapStore
from fourd4d.eval.items import Item, ItemLog, Record
from fourd4d.eval.probes import donors, truth
from fourd4d.eval.probes.forced import block_starts, forced, letter_place, text_after_images
from fourd4d.eval.probes.recordings import ArrayStore, Recording, Recordings, join, of_rollout
from fourd4d.eval.probes.tables import ARMS, Latents, Material, marker_of, tiled
from fourd4d.eval.runner import AskedBatch, run
from fourd4d.eval.spec import EvalSpec, Subject
from fourd4d.parallel import use
from fourd4d.sampling.interventions import replace

_REAL = 2000  # Mental images whose mean and covariance stand for all.


@dataclasses.dataclass(frozen=True)
class ProbeSpec:
    """Which interventions are made.

    Attributes:
      arms: names in ``tables.ARMS``; none for all of them.
      seed: of the choice of donors, and of what is random.
      draws: resamples of a bootstrap.
      linear: fit linear probes of place, size, velocity and identity.
    """

    arms: tuple[str, ...] = ()
    seed: int = 0
    draws: int = 2000
    linear: bool = True

    def __post_init__(self) -> None:
        unknown = sorted(set(self.arms) - set(ARMS))
        if unknown:
            raise InputError("ProbeSpec.arms", f"unknown names {unknown}", f"Known: {list(ARMS)}")
        if self.draws < 100:
            raise InputError("ProbeSpec.draws", f"bad value {self.draws}", "Use 100 or more")

    @property
    def chosen(self) -> list[str]:
        """The arms, in the order of the table."""
        return [name for name in ARMS if name in self.arms or not self.arms]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Every record of a probe.

    Attributes:
      items: all that were asked.
      plain, arms, text_only: records by item; of an arm, those of the items it applies to.
      material: what was fed.
      untold: why the true targets of an item are not known.
    """

    items: Sequence[Item]
    plain: Mapping[str, Record]
    arms: Mapping[str, Mapping[str, Record]]
    text_only: Mapping[str, Record]
    material: Material
    untold: Mapping[str, str]


Progress = Callable[[str, int, Iterable[Any]], Iterator[Any]]
"""(what, how many, things) → the same things, while a bar moves."""


def silent(what: str, total: int, things: Iterable[Any]) -> Iterator[Any]:
    del what, total
    yield from things


def probe(
    subject: Subject, source: Source, items: Sequence[Item], spec: EvalSpec, probing: ProbeSpec,
    out: Path, *, header: Mapping[str, Any] | None = None, text_only: Subject | None = None,
    tracks: Mapping[str, Sequence[truth.Track]] | None = None, shown: Sequence[str] = (),
    progress: Progress = silent, retry_failed: bool = False,
) -> Outcome:
    """Answers every item plainly and under every intervention; resumes what ``out`` holds.

    Args:
      header: what the logs belong to, see ``items.ItemLog``.
      text_only: another checkpoint, which answers the same items without mental images.
      tracks: things of each clip, see ``truth.read_tracks``.
      shown: items whose cosine maps are kept.

    Raises:
      InputError: ``out`` belongs to another probe.
    """
    if jax.process_count() > 1:
        raise InputError("probe", f"{jax.process_count()} processes", "Run it on one host")
    run_ = _Run(subject, source, spec, probing, out, dict(header or {"evaluation": "probe"}),
                frozenset(shown), progress, retry_failed)
    plain = run_.plain(items)
    targets, untold = ArrayStore(out / "targets"), {}
    told = truth.record_targets(subject, source, items, spec, targets, tracks,
                                lambda item, why: untold.update({item.key: why}))
    for _ in progress("true targets", len(items), told):
        pass
    imagining = [item for item in items if plain[item.key].get("latents", 0)]
    asked = [donors.Asked.of(item.key, source[item.number].sample) for item in imagining]
    same, other = donors.choose(asked, probing.seed)
    size = subject.processor.protocol.latent_size
    material = Material(
        run_.recordings, targets, same, other, real_images(run_.recordings, imagining, size),
        marker_of(subject), size, probing.seed)
    arms = {name: run_.arm(name, imagining, material) for name in probing.chosen}
    said: Mapping[str, Record] = {}
    if text_only is not None:
        said = run_.text_only(text_only, items)
    return Outcome(items, plain, arms, said, material, untold)


def real_images(recordings: Recordings, items: Sequence[Item], size: int
                ) -> Float[np.ndarray, "N R D"]:
    """Mental images as they were imagined, of evenly chosen items where there are very many."""
    found: list[np.ndarray] = []
    for item in items[:: max(1, len(items) // _REAL)]:
        own = recordings.load(item.key).latents
        found.append(own.reshape(-1, size, own.shape[-1]))
    return np.concatenate(found) if found else np.zeros((0, size, 1), np.float32)


class _Run:
    """One probe's programs, logs and recordings."""

    def __init__(self, subject: Subject, source: Source, spec: EvalSpec, probing: ProbeSpec,
                 out: Path, header: dict[str, Any], shown: frozenset[str], progress: Progress,
                 retry_failed: bool):
        self._subject, self._source, self._spec, self._probing = subject, source, spec, probing
        self._out, self._header, self._shown = out, header, shown
        self._progress, self._retry_failed = progress, retry_failed
        self._sampling = subject.sampling(spec)
        self._scored = dataclasses.replace(self._sampling, top_p=1.0)
        blocks = max(self._sampling.max_blocks, 1)
        self._latents, self._places = blocks * self._sampling.latent_size, 2 * blocks
        self._numbers: dict[str, int] = {}
        self.recordings = Recordings(out / "recordings")

    def plain(self, items: Sequence[Item]) -> dict[str, Record]:
        """The model's own answers, recorded."""
        self._numbers.update((item.key, item.number) for item in items)

        def observe(keys: Sequence[str], asked: AskedBatch, rollout: Rollout) -> list[Record]:
            size, slots = self._sampling.latent_size, self._places // 2
            nothing = np.zeros((0, rollout.latents.shape[-1]), np.float32)
            found = [of_rollout(rollout, row, nothing, nothing, 0) for row in range(len(keys))]
            places = np.zeros((len(keys), self._places), np.int32)
            starts = [block_starts(one, size) for one in found]
            for row, start in enumerate(starts):
                places[row, : len(start)] = start
                places[row, slots : slots + len(start)] = start + size + 2
            more, states = self._forced(keys, found, self._after(found), asked, places)
            for row, (key, one) in enumerate(zip(keys, found, strict=True)):
                whole = len(one.latents) // size * size
                self.recordings.save(key, dataclasses.replace(
                    one, before=states[row, : len(starts[row])],
                    end=states[row, slots : slots + len(starts[row])]))
                more[row]["latents"] = whole
            return more

        return self._answers("plain", "plain", items, self._table({}), observe)

    def arm(self, name: str, items: Sequence[Item], material: Material) -> dict[str, Record]:
        """The answers under one intervention, of the items that it applies to."""
        arm = ARMS[name]
        tables: dict[str, Latents] = {}
        if name == "repeat":
            items = items[::-1]
        elif arm.table is not None:
            for item in items:
                made = arm.table(material, item.key)
                if made is not None and len(made):
                    tables[item.key] = np.asarray(made, np.float32)
            items = [item for item in items if item.key in tables]

        def observe(keys: Sequence[str], asked: AskedBatch, rollout: Rollout) -> list[Record]:
            del rollout
            plain = [self.recordings.load(key) for key in keys]
            fed, after = plain, self._after(plain)
            if not arm.imagery:
                start = self._sampling.latent_start
                after = [mask[one.words(start)] for one, mask in zip(plain, after, strict=True)]
                fed = [one.without_images(start) for one in plain]
            elif tables:
                fed = [dataclasses.replace(one, latents=tiled(tables[key], len(one.latents)))
                       for key, one in zip(keys, plain, strict=True)]
            more, _ = self._forced(keys, fed, after, asked,
                                   np.zeros((len(keys), self._places), np.int32))
            if arm.donor:
                for key, record in zip(keys, more, strict=True):
                    record["donor"] = material.other[key].key
                    record["donor_letter"] = material.other[key].letter
            return more

        spec = dataclasses.replace(self._spec, imagery=self._spec.imagery and arm.imagery)
        return self._answers(name, arm.title, items, self._table(tables), observe, spec)

    def text_only(self, subject: Subject, items: Sequence[Item]) -> dict[str, Record]:
        """Another checkpoint's answers, without mental images."""
        spec = dataclasses.replace(self._spec, imagery=False)
        with self._log("text_only", {"text_only": subject.name}) as log:
            return self._run(log, "text alone", items, run(
                subject, self._source, items, spec, log))

    def _answers(self, name: str, title: str, items: Sequence[Item], data: Any, observe: Any,
                 spec: EvalSpec | None = None) -> dict[str, Record]:
        with self._log(name, {}) as log:
            return self._run(log, title, items, run(
                self._subject, self._source, items, spec or self._spec, log, intervene=replace,
                data=data, observe=observe, maps=MapStore(self._out / "maps" / name),
                keep=self._shown))

    def _log(self, name: str, more: Mapping[str, Any]) -> ItemLog:
        header = {**self._header, "arm": name, "seed": self._probing.seed, **more}
        return ItemLog(self._out / f"items-{name}.jsonl", header, self._retry_failed)

    def _run(self, log: ItemLog, title: str, items: Sequence[Item], records: Iterator[Record]
             ) -> dict[str, Record]:
        left = sum(item.key not in log.records for item in items)
        for _ in self._progress(title, left, records):
            pass
        return {item.key: log.records[item.key] for item in items}

    def _table(self, tables: Mapping[str, Latents]
               ) -> Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]:
        """What ``interventions.replace`` is handed for a batch: every table, and whose it is."""
        width = len(marker_of(self._subject))
        nothing = np.zeros((self._latents, width), np.float32)

        def data(keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            return (np.stack([tiled(tables[key], self._latents) if key in tables else nothing
                              for key in keys]),
                    np.array([key in tables for key in keys]))

        return data

    def _after(self, recordings: Sequence[Recording]) -> list[np.ndarray]:
        return [text_after_images(one, self._sampling) for one in recordings]

    def _forced(self, keys: Sequence[str], fed: Sequence[Recording], after: Sequence[np.ndarray],
                asked: AskedBatch, places: np.ndarray) -> tuple[list[Record], np.ndarray]:
        """Log-probs of the right letter and of the tokens ``after``; hidden states at ``places``.
        """
        subject, rows = self._subject, asked.batch.tokens.shape[0]
        rollout = join(fed, rows, self._sampling.max_tokens, self._latents)
        at, letters = np.zeros(rows, np.int32), np.zeros((rows, 1), np.int32)
        wide = np.zeros((rows, places.shape[1]), np.int32)
        wide[: len(fed)] = places
        told = []
        for row, (key, one) in enumerate(zip(keys, fed, strict=True)):
            answer = self._source[self._numbers[key]].sample.answer
            found = letter_place(one.tokens.tolist(), subject.processor.tokenizer, answer)
            told.append(found is not None)
            if found is not None:
                at[row], letters[row, 0] = found
        with contextlib.nullcontext() if subject.mesh is None else use(subject.mesh):
            spoken, tried, states = jax.device_get(forced(
                subject.graphdef, subject.states, asked.batch, rollout, self._scored,
                asked.features, at, letters, wide))
        more: list[Record] = [{
            "text_logp": float(spoken[row, : len(mask)][mask].sum()),
            "letter_logp": float(tried[row, 0]) if told[row] else None,
        } for row, mask in enumerate(after)]
        return more, states
