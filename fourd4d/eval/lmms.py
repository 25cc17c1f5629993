"""A model of lmms-eval: its tasks, asked of a checkpoint that thinks with imagery.

    pip install "lmms-eval==0.7.3" "filelock<4"
    pip install fourd4d "sentencepiece<0.2.2"
    python -m lmms_eval --model fourd4d --model_args checkpoint=DIR --tasks NAME --batch_size 16

lmms-eval finds it by this package's entry point (``fourd4d.lmms``). Requests are answered by the
evaluation loop (``runner``): those about one video together, whatever one of them raises fails it
alone.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
import PIL.Image
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from rich.progress import track

from fourd4d.core.errors import InputError
from fourd4d.core.example import Example
from fourd4d.core.kept import Kept
from fourd4d.core.sample import Sample
from fourd4d.core.terminal import plain_console
from fourd4d.data.source import Row
from fourd4d.eval.items import Item, ItemLog, Record
from fourd4d.eval.runner import run
from fourd4d.eval.spec import EvalSpec, Subject
from fourd4d.eval.vision_store import VisionStore
from fourd4d.parallel import make_mesh, use
from fourd4d.pretrained.open import open_checkpoint
from fourd4d.processing.answers import tagged_answer
from fourd4d.processing.media import Image, Video, read_image
from fourd4d.processing.processor import Processor
from fourd4d.processing.video import read_video

REPLIES: Final = ("answer", "full")


class Fourd4D(lmms):
    """Serves a checkpoint to lmms-eval's generation tasks.

    Args:
      checkpoint: a trainer's or a Hugging Face directory.
      step: of a trainer's directory; 0 for the newest.
      mesh: of this host's devices, see ``parallel.make_mesh``.
      reply: ``answer`` hands tasks what stands in the last ``<answer>`` tags, where there are any
        (their parsers know no reasoning); ``full`` the whole response.
      imagery: False never imagines.
      suffix: end each prompt with the checkpoint's wording that asks for imagery.
      max_tokens: of a response, more than a task asks for where that is less: reasoning stands
        before the answer. 0 leaves it to the task.
      max_latents, batch_size, batch_tokens, max_length: as in ``EvalSpec``.
      fps, max_frames: of videos; 0 for those of the checkpoint's protocol.
      device, max_batch_size: lmms-eval's own, without effect here.

    Raises:
      InputError: no such checkpoint; a value that cannot be used; an argument that is not known.
    """

    is_simple = False

    def __init__(self, checkpoint: str = "", *, step: int = 0, mesh: str = "single",
                 reply: str = "answer", imagery: bool = True, suffix: bool = True,
                 max_tokens: int = 512, max_latents: int = 64, batch_size: int | str = 16,
                 batch_tokens: int = EvalSpec.batch_tokens, max_length: int = EvalSpec.max_length,
                 fps: float = 0.0, max_frames: int = 0, device: str | None = None,
                 max_batch_size: int | None = None, **unknown: Any):
        super().__init__()
        del device, max_batch_size
        if unknown:
            raise InputError("--model_args", f"no argument {sorted(unknown)[0]!r}",
                             "See fourd4d.eval.lmms.Fourd4D")
        if not checkpoint:
            raise InputError("--model_args", "no checkpoint", "Give checkpoint=DIR")
        if reply not in REPLIES:
            raise InputError("--model_args reply", f"{reply!r}", f"Use one of {REPLIES}")
        rows = int(batch_size) if str(batch_size).isdigit() else EvalSpec.rows
        where = make_mesh(mesh, jax.local_devices()[:1] if mesh == "single" else None)
        with use(where):
            bundle = open_checkpoint(str(checkpoint), where, step=int(step) or None)
        self._subject = Subject(bundle.graphdef, (bundle.tree,), bundle.processor, str(checkpoint),
                                where, bundle.config.decoder.max_positions)
        self._spec = EvalSpec(max_tokens=max_tokens or 512, max_latents=max_latents,
                              imagery=imagery, rows=rows, batch_tokens=batch_tokens,
                              max_length=max_length)
        self._least, self._reply, self._suffix = max_tokens, reply, suffix
        protocol = bundle.processor.protocol
        self._fps, self._frames = fps or protocol.fps, max_frames or protocol.max_frames
        self._store = VisionStore(self._spec.cache_bytes)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The responses to requests; an empty one, and a warning, where one cannot be answered."""
        texts = [""] * len(requests)
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[2], sort_keys=True, default=str),
                             []).append(number)
        failed = 0
        for numbers in alike.values():
            settings = dict(requests[numbers[0]].args[2] or {})
            # A document may be asked several times.
            source = Requests([self._asked(requests[n], str(turn)) for turn, n in enumerate(
                numbers)], self._read, suffix=self._suffix)
            answers = run(self._subject, source, source.items(), self._of(settings),
                          ItemLog(None, {}), store=self._store)
            for record in track(answers, "fourd4d", len(numbers),
                                console=plain_console(stderr=True)):
                number = numbers[record["number"]]
                if record["status"] == "failed":
                    failed += 1
                    logging.warning("no answer to %s: %s", record["key"], record["reason"])
                    continue
                texts[number] = self._said(record["response"], settings)
        if failed:
            logging.warning("%d of %d requests could not be answered; their answers are empty",
                            failed, len(requests))
        return texts

    def loglikelihood(self, requests: Sequence[Any]) -> Any:
        raise InputError("fourd4d", "log-likelihoods are not served", "Use a generation task")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> Any:
        raise InputError("fourd4d", "several rounds are not served", "Use a task of one round")

    def _asked(self, request: Any, name: str) -> Asked:
        _, to_messages, _, number, task, split = request.args
        key = f"{task}/{split}/{number}/{name}"
        try:
            messages = to_messages(self.task_dict[task][split][number])
            return Asked(key, ChatMessages(messages=messages))
        except Exception as error:  # A task's own code, on one document.
            return Asked(key, None, f"{type(error).__name__}: {error}")

    def _of(self, settings: dict[str, Any]) -> EvalSpec:
        """How a task wants its requests answered."""
        sampled = settings.get("do_sample", True) and settings.get("temperature")
        return dataclasses.replace(
            self._spec, max_tokens=max(self._least, int(settings.get("max_new_tokens") or 0))
            or self._spec.max_tokens, temperature=float(sampled or 0.0),
            top_p=float(settings.get("top_p") or 1.0) if sampled else 1.0)

    def _said(self, response: str, settings: dict[str, Any]) -> str:
        found = tagged_answer(response)
        text = response if found is None or self._reply != "answer" else found.strip()
        stops = settings.get("until") or []
        for stop in [stops] if isinstance(stops, str) else stops:
            # A blank line ends an answer, not the reasoning before it.
            if stop and (self._reply == "full" or found is not None or stop.strip()):
                text = text.split(stop)[0]
        return text

    def _read(self, content: Any) -> Video | Image:
        """The medium of a chat message's content."""
        about = content.url if isinstance(content.url, dict) else {}
        place = about.get("url") or about.get("path") or content.url
        if content.type == "image":
            if isinstance(place, PIL.Image.Image):
                return Image(np.asarray(place.convert("RGB")))
            return read_image(_path(place))
        if content.type != "video":
            raise InputError(content.type, "not served", "Use tasks of text, pictures and videos")
        start = content.start_time or about.get("video_start") or 0.0
        end = content.end_time or about.get("video_end")
        return read_video(_path(place), self._fps, self._frames, start=float(start),
                          end=None if end is None else float(end))


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request: messages, or why there are none."""

    key: str
    messages: ChatMessages | None
    problem: str = ""


class Requests:
    """Requests as an ``AskedSource``."""

    def __init__(self, asked: Sequence[Asked], read: Any, *, suffix: bool):
        self._asked, self._read, self._suffix = asked, read, suffix
        self._media: Kept[Video | Image] = Kept(1 << 30, lambda medium: medium.frames.nbytes)

    def __len__(self) -> int:
        return len(self._asked)

    def __getitem__(self, index: int) -> Row:
        return Row(Sample(self._asked[index].key, ""), self._asked[index].key)

    def items(self) -> list[Item]:
        """Their places, by what they show."""
        return [Item(number, one.key, "", 0, f"reading: {one.problem}" if one.problem else "",
                     self._shown(one)) for number, one in enumerate(self._asked)]

    def _shown(self, one: Asked) -> str:
        media = [content.url for message in (one.messages.messages if one.messages else ())
                 for content in message.content if content.type != "text"]
        return " ".join(map(str, media)) if all(isinstance(m, str | dict) for m in media) else ""

    def example(self, number: int, processor: Processor) -> Example:
        """The request's prompt: a system turn, if it has one, and one user turn."""
        messages = self._asked[number].messages
        assert messages is not None
        parts: list[Any] = []
        for message in messages.messages:
            if message.role == "system":
                text = "".join(content.text for content in message.content
                               if content.type == "text")
                processor = Processor(processor.tokenizer, dataclasses.replace(
                    processor.protocol, system=text), processor.cut)
            elif message.role != "user" or parts:
                raise InputError("messages", "more than one user turn",
                                 "Use tasks of one question without earlier turns")
            else:
                parts = [content.text if content.type == "text" else self._once(content)
                         for content in message.content]
        return processor.prompt_of([part for part in parts if not isinstance(part, str) or part],
                                   suffix=self._suffix)

    def _once(self, content: Any) -> Video | Image:
        if not isinstance(content.url, str | dict):
            return self._read(content)
        key = repr((content.url, content.type, getattr(content, "start_time", None),
                    getattr(content, "end_time", None)))
        return self._media.get(key, lambda: self._read(content))

    def about(self, number: int) -> Record:
        """Nothing: the task scores."""
        return {}

    def score(self, number: int, text: str) -> Record:
        """Nothing: the task scores."""
        return {}


def _path(place: Any) -> Path:
    if not isinstance(place, str | Path):
        raise InputError("medium", f"{type(place).__name__} cannot be read",
                         "Use tasks that give paths or PIL images")
    if re.match(r"[a-z]+://", str(place)) and not str(place).startswith("file://"):
        raise InputError("medium", f"{place} is not a file", "Fetch the task's media first")
    return Path(str(place).removeprefix("file://"))
