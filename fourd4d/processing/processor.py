"""Question, media and response to an ``Example``: the one preprocessing of every stage."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from fourd4d.core.errors import InputError
from fourd4d.core.example import Example, VisionSlots
from fourd4d.core.files import read_object, readable
from fourd4d.core.protocol import ProtocolSpec
from fourd4d.core.sample import IMAGE_MARK
from fourd4d.processing import chat_template, hf_files, latent_spans
from fourd4d.processing.media import Image, MediumShape, Video
from fourd4d.processing.mrope import VisionSpan, mrope_ids, slot_times
from fourd4d.processing.patches import (
    Grid,
    frames_to_slots,
    join_slots,
    smart_resize,
    token_offsets,
)
from fourd4d.processing.sentencepiece_export import to_tokenizer_json
from fourd4d.processing.tokenizer import (
    IMAGE_PAD,
    LATENT_PAD,
    TURN_END,
    VIDEO_PAD,
    HFTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    check_plain,
    inside_tokens,
    load_tokenizer,
    write_file,
)


@runtime_checkable
class Cut(Protocol):
    """``patches.frames_to_slots``, or what gives the same."""

    def __call__(self, frames: UInt8[np.ndarray, "T H W 3"], protocol: ProtocolSpec, *,
                 kind: str) -> tuple[VisionSlots, Grid]: ...


class Processor:
    """Tokenises questions about media, and responses with mental images.

    Args:
      tokenizer: any ``Tokenizer``.
      protocol: the numbers and wordings; a checkpoint carries the same.
      cut: what cuts media into slots, where that is not done anew each time.
    """

    def __init__(self, tokenizer: Tokenizer, protocol: ProtocolSpec,
                 cut: Cut = frames_to_slots):
        self.tokenizer = tokenizer
        self.protocol = protocol
        self.cut = cut
        self._pads = {"image": tokenizer.id(IMAGE_PAD), "video": tokenizer.id(VIDEO_PAD)}
        self._latent_pad = tokenizer.id(LATENT_PAD)

    def prompt_text(self, question: str, media: Sequence[Video | Image]) -> str:
        """The prompt as text; see ``chat_template.chat`` for its pads."""
        return chat_template.chat(question, media, self.protocol)

    def prompt(self, question: str, media: Sequence[Video | Image]) -> Example:
        """User turn (media, question, suffix) and the assistant turn's head.

        Args:
          question: with its options, if any (``Sample.text_input``).
          media: in reading order.

        Raises:
          InputError: the question holds a control token.
        """
        return self._build(question, media, None, ())

    def prompt_of(self, parts: Sequence[str | Video | Image], *, suffix: bool = False) -> Example:
        """A prompt whose user turn is these texts and media, in this order.

        A control token that a text holds (an option may name one) stays text.

        Args:
          suffix: end the turn with the protocol's wording.
        """
        return self.conversation([chat_template.Turn("user", tuple(parts))], suffix=suffix)

    def conversation(self, turns: Sequence[chat_template.Turn], *, suffix: bool = False,
                     system: str | None = None) -> Example:
        """A prompt of several turns, each with texts and media; otherwise as ``prompt_of``.

        Args:
          suffix: end the last turn with the protocol's wording.
          system: the system turn's text; by default the protocol's.
        """
        media = [part for turn in turns for part in turn.parts if isinstance(part, Image | Video)]
        text, cuts = "", list[int]()
        for part in chat_template.conversation(turns, self.protocol, suffix=suffix, system=system):
            if part.given:
                cuts += [len(text) + at for at in inside_tokens(part.text)]
            text += part.text
        pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
        ids = [i for piece in pieces for i in self.tokenizer.encode(piece)]
        return self._build("", media, None, (), head=ids)

    def example(
        self,
        text_input: str,
        media: Sequence[Video | Image],
        response: str,
        overlays: Sequence[UInt8[np.ndarray, "_ _ 3"]] = (),
        imagery: bool = True,
        plains: Sequence[UInt8[np.ndarray, "_ _ 3"]] = (),
        masks: Sequence[Bool[np.ndarray, "_ _"]] = (),
    ) -> Example:
        """The prompt with its response; weight 1 on assistant tokens up to ``<|im_end|>``.

        Each ``<output_image>`` becomes ``<|latent_start|>``, ``latent_size`` pads and
        ``<|latent_end|>``; the pads have weight 0. Prompt and response are tokenised apart, so
        the prompt's ids are those of ``prompt``.

        Args:
          text_input, media: as in ``prompt``.
          response: the assistant's text.
          overlays: one image per ``<output_image>``.
          imagery: False leaves marks and overlays out: the text-only twin of the same example.
          plains: the frames that the overlays were painted on, where ``protocol.target`` asks.
          masks: what was painted, where ``protocol.region`` asks.

        Raises:
          InputError: marks and overlays differ in number, or a text holds a control token.
        """
        marks = response.count(IMAGE_MARK)
        if imagery and marks != len(overlays):
            raise InputError("response", f"{marks} {IMAGE_MARK}, {len(overlays)} overlays",
                             "Their numbers must be equal")
        for name, given, wanted in (("plains", plains, self.protocol.target),
                                    ("masks", masks, self.protocol.region)):
            if imagery and wanted is not None and len(given) != len(overlays):
                raise InputError(name, f"{len(given)} for {len(overlays)} overlays",
                                 f"The protocol's {wanted!r} needs one each")
        return self._build(text_input, media, response, overlays if imagery else (), imagery,
                           plains, masks)

    def size(
        self,
        question: str,
        media: Sequence[MediumShape],
        response: str | None = None,
        overlays: Sequence[tuple[int, int]] = (),
        imagery: bool = True,
    ) -> tuple[int, int, int, int]:
        """What the example would take: tokens, frame slots, windows of a slot, overlays.

        As ``example`` (without a response: ``prompt``), from the shapes of media and overlays.
        """
        protocol = self.protocol
        overlays = overlays if imagery else ()
        ids = self.tokenizer.encode(chat_template.chat(question, media, protocol))
        pads = sum(ids.count(pad) for pad in self._pads.values())
        length, slots, windows = len(ids) - pads, 0, 0
        if response is not None:
            length += len(self._response_ids(response, imagery))
        drawn = overlays if protocol.target is None else (*overlays, *overlays)  # Over frames.
        stills = [MediumShape("video", 1, *shape) for shape in drawn]
        together = _most_frames((medium.kind, medium.frames) for medium in media)
        for number, medium in enumerate((*media, *stills)):
            frames = medium.frames if number < len(media) else together
            height, width = smart_resize(medium.height, medium.width, protocol, medium.kind, frames)
            grid = Grid(-(-medium.frames // protocol.temporal_patch),
                        height // protocol.patch_size, width // protocol.patch_size)
            slots += grid.slots
            windows = max(windows, -(-height // protocol.window) * -(-width // protocol.window))
            if number < len(media):
                length += grid.tokens(protocol.merge)
        return length, slots, windows, len(overlays)

    def _build(
        self,
        question: str,
        media: Sequence[Video | Image],
        response: str | None,
        overlays: Sequence[UInt8[np.ndarray, "_ _ 3"]],
        use_imagery: bool = True,
        plains: Sequence[UInt8[np.ndarray, "_ _ 3"]] = (),
        masks: Sequence[Bool[np.ndarray, "_ _"]] = (),
        head: list[int] | None = None,
    ) -> Example:
        check_plain(question, "question")
        protocol = self.protocol
        parts: list[VisionSlots] = []
        spans, offsets = [], []
        for medium in media:
            slots, grid = self.cut(medium.frames, protocol, kind=medium.kind)
            times = (slot_times(medium.timestamps, protocol) if isinstance(medium, Video)
                     else np.zeros(1, np.int32))
            parts.append(slots)
            runs = [times] if protocol.times is None else [np.zeros(1, np.int32)] * grid.slots
            offsets += [token_offsets(grid.rows, grid.columns, protocol)] * len(runs)
            spans += [VisionSpan(run, grid.rows // protocol.merge, grid.columns // protocol.merge)
                      for run in runs]

        if head is None:
            head = self.tokenizer.encode(self.prompt_text(question, media))
        tail = self._response_ids(response, use_imagery) if response is not None else []
        tokens, runs, slot, offset = self._expand(head, spans, offsets)
        prompt_length = len(tokens)
        tokens = np.concatenate([tokens, np.asarray(tail, np.int32)])
        is_latent = tokens == self._latent_pad
        weights = (np.arange(len(tokens)) >= prompt_length) & ~is_latent
        empty = np.full(len(tail), -1, np.int32)

        media_slots = sum(part.mask.shape[0] for part in parts)
        pictures = [Image(overlay).pixels for overlay in overlays]
        together = _most_frames((medium.kind, len(medium.frames)) for medium in media)
        grids = self._stills(pictures, parts, together)
        pools = [latent_spans.pooling_weights(grid.rows, grid.columns, protocol) for grid in grids]
        if protocol.region == "mask" and pictures:
            pools = [latent_spans.masked_weights(grid.rows, grid.columns, protocol, mask)
                     for grid, mask in zip(grids, masks, strict=True)]
        plain_slot = None
        if protocol.target is not None:
            under = [Image(plain).pixels for plain in plains] if pictures else []
            for number, (picture, plain) in enumerate(zip(pictures, under, strict=True)):
                if picture.shape != plain.shape:
                    raise InputError(f"overlay {number}", f"{picture.shape[:2]}, the frame it was "
                                     f"painted on {plain.shape[:2]}", "They must have one size")
            self._stills(under, parts, together)
            plain_slot = np.arange(len(under), dtype=np.int32) + media_slots + len(pictures)
        overlay_slot = np.arange(len(pictures), dtype=np.int32) + media_slots
        joined = join_slots(parts, protocol)
        vision_slot = np.concatenate([slot, empty])
        latent_index = np.where(is_latent, np.cumsum(is_latent) - 1, -1).astype(np.int32)
        sees, speaks = (None, None) if protocol.reader is None else latent_spans.reader_masks(
            vision_slot, latent_index)
        return Example(
            tokens=tokens,
            positions=mrope_ids([*runs, len(tail)]),
            text_weights=weights.astype(np.float32),
            vision_slot=vision_slot,
            vision_offset=np.concatenate([offset, empty]),
            latent_index=latent_index,
            slots=joined,
            overlay_slot=overlay_slot,
            pool=self._join_pools(pools, joined),
            plain_slot=plain_slot,
            reader_sees=sees,
            reader_speaks=speaks,
        )

    def _stills(self, pictures: Sequence[np.ndarray], parts: list[VisionSlots], together: int
                ) -> list[Grid]:
        """Adds a slot for each picture to ``parts``; returns their grids.

        ``together``: frames of the video that they were painted on.
        """
        grids = []
        for _, group in itertools.groupby(pictures, key=np.shape):
            slots, grid = frames_to_slots(np.stack(list(group)), self.protocol, stills=True,
                                          of=together)
            parts.append(slots)
            grids += [grid] * grid.slots
        return grids

    def _response_ids(self, response: str, use_imagery: bool) -> list[int]:
        check_plain(response, "response")
        text = (latent_spans.insert_spans(response, self.protocol.latent_size) if use_imagery
                else latent_spans.remove_marks(response))
        return self.tokenizer.encode(text + TURN_END)

    def _expand(
        self, ids: Sequence[int], spans: Sequence[VisionSpan],
        offsets: Sequence[Int[np.ndarray, "_"]],
    ) -> tuple[Int[np.ndarray, "L"], list[int | VisionSpan], Int[np.ndarray, "L"],
               Int[np.ndarray, "L"]]:
        """Repeats each pad once per merged token of its medium, and says which it takes."""
        source = np.asarray(ids, np.int32)
        pads = np.flatnonzero(np.isin(source, list(self._pads.values())))
        if len(pads) != len(spans):
            raise InputError("prompt", f"{len(pads)} vision pads for {len(spans)} media",
                             "Remove vision pads from the text")
        tokens, slot, offset = [], [], []
        runs: list[int | VisionSpan] = []
        start = first_slot = 0
        for at, span, places in zip(pads, spans, offsets, strict=True):
            text = source[start:at]
            number = len(span.times)
            tokens += [text, np.full(span.length, source[at], np.int32)]
            none = np.full(len(text), -1, np.int32)
            slot += [none, np.repeat(np.arange(first_slot, first_slot + number), len(places))]
            offset += [none, np.tile(places, number)]
            runs += [len(text), span]
            start, first_slot = at + 1, first_slot + number
        rest = source[start:]
        none = np.full(len(rest), -1, np.int32)
        return (np.concatenate([*tokens, rest]), [*runs, len(rest)],
                np.concatenate([*slot, none]).astype(np.int32),
                np.concatenate([*offset, none]).astype(np.int32))

    def _join_pools(self, pools: Sequence[Float[np.ndarray, "R _"]],
                    slots: VisionSlots) -> Float[np.ndarray, "O R U"]:
        width = slots.mask.shape[1] * slots.mask.shape[2] // self.protocol.merge**2
        joined = np.zeros((len(pools), self.protocol.latent_size, width), np.float32)
        for number, pool in enumerate(pools):
            joined[number, :, : pool.shape[1]] = pool
        return joined

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes ``protocol.json`` and the tokenizer: what ``load_processor`` reads."""
        directory = Path(directory)
        written = self.tokenizer.save(directory)
        for other in {"tokenizer.model", "tokenizer.json"} - {written.name}:
            (directory / other).unlink(missing_ok=True)  # A former one of that kind might win.
        text = json.dumps(self.protocol.to_json(), indent=2)
        write_file(directory / "protocol.json", text.encode("utf-8"))

    def export(self, directory: str | os.PathLike[str], classes: hf_files.ProcessorClasses) -> None:
        """``save``, and what transformers' ``AutoProcessor`` opens.

        That is ``tokenizer.json``, ``tokenizer_config.json``, ``preprocessor_config.json`` and
        ``chat_template.json``.
        """
        directory = Path(directory)
        self.save(directory)
        official = self.tokenizer
        if isinstance(official, SentencePieceTokenizer):
            official = to_tokenizer_json(official.model)
            official.save(directory)
        if not isinstance(official, HFTokenizer):
            raise InputError("tokenizer", f"{type(official).__name__} cannot be exported",
                             "Use a tokenizer.json or a SentencePiece model")
        hf_files.write(directory, official, self.protocol, classes)


def _most_frames(media: Iterable[tuple[str, int]]) -> int:
    """Frames of the longest video, of (kind, frames): overlays get the size its frames have."""
    return max((frames for kind, frames in media if kind == "video"), default=1)


def load_processor(
    directory: str | os.PathLike[str], unsaid: ProtocolSpec | None = None, *,
    add_imagery: bool = False,
) -> Processor:
    """The processor that ``Processor.save`` wrote, or that of a Hugging Face directory.

    Args:
      directory: with a tokenizer, and ``protocol.json`` or transformers' files
        (``hf_files.read_protocol``).
      unsaid: what transformers' files do not say is taken from it; else the default.
      add_imagery: see ``load_tokenizer``.

    Raises:
      InputError: files missing or malformed.
    """
    directory = Path(directory)
    with readable(directory):
        tokenizer = load_tokenizer(directory, add_imagery)
        path = directory / "protocol.json"
        if not path.exists():
            return Processor(tokenizer, hf_files.read_protocol(directory,
                                                               unsaid or ProtocolSpec()))
    return Processor(tokenizer, ProtocolSpec.from_json(read_object(path, "Fix it"), path))
