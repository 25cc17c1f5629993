"""Where one of several things ends up that look alike: it can only be told by following it.

As in a shell game. One frame never shows which of them it is, so the way has to be followed from
picture to picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float

from fourd4d.synth.clip import Clip, Track
from fourd4d.synth.questions import geometry
from fourd4d.synth.questions.margins import Ambiguous, Margins
from fourd4d.synth.questions.question import AskSpec, Subject
from fourd4d.synth.questions.types.destination import Destination, quarter_of


def follow(clip: Clip, track: Track, first: int, last: int, nearer: float) -> list[Track]:
    """Return the things that have the name of ``track``, itself first.

    Args:
      nearer: how many times as far as its own last place another's has to be, frame by frame.

    Raises:
      Ambiguous: there is but one; or by their places alone they could be mistaken for each other;
        or there may be more than what was found.
    """
    if clip.provenance.get("objects") != "truth":
        raise Ambiguous("lookalike: there may be more than what was found")
    alike = [track, *(one for one in clip.tracks if one.name == track.name and one is not track)]
    if len(alike) < 2:
        raise Ambiguous("lookalike: nothing looks like it")
    if not all(one.seen[first : last + 1].all() for one in alike):
        raise Ambiguous("lookalike: one of them is out of sight for a while")
    places: Float[np.ndarray, "N T 2"] = np.stack([geometry.box_center(one) for one in alike])
    places = places[:, first : last + 1] * np.array([geometry.aspect(clip), 1.0])
    far = np.linalg.norm(places[:, None, 1:] - places[None, :, :-1], axis=-1)
    own = np.arange(len(alike))
    steps = far[own, own].copy()
    far[own, own] = np.inf
    if (far.min((0, 1)) < nearer * steps.max(0)).any():
        raise Ambiguous("lookalike: which is which is not clear from frame to frame")
    return alike


class Lookalike(Destination):
    """In which quarter of the frame a thing ends that is called by the quarter it starts in."""

    name = "lookalike"
    overlays = 4
    wordings: Mapping[str, tuple[str, ...]] = {
        "short": ("Where does the {name} from the {quarter} end up?",
                  "One {name} starts at the {quarter}: where does it end?",
                  "Where is the {name} at the end that starts at the {quarter}?"),
        "full": ("At {start:.1f}s one {name} is in the {quarter} quarter of the picture. In which "
                 "quarter is that one at {end:.1f}s?",
                 "Follow the {name} that is in the {quarter} quarter of the picture at "
                 "{start:.1f}s, among others that look like it. In which quarter is it at "
                 "{end:.1f}s?"),
    }
    introductions: Mapping[str, str] = {
        "short": "Follow it.",
        "full": "I must not take another {name} for it."}

    def subjects(self, clip: Clip) -> Iterator[Subject]:
        """Yield each moving object that has a lookalike."""
        names = [track.name for track in clip.tracks]
        moving = [track for track in clip.tracks
                  if track.role == "dynamic" and names.count(track.name) > 1]
        yield from (Subject(track=track) for track in moving)
        if not moving:
            yield Subject()

    def answer(self, clip: Clip, track: Track, frames: tuple[int, ...], margins: Margins
               ) -> tuple[str, str]:
        last = int(np.flatnonzero(track.seen)[-1])
        follow(clip, track, frames[0], last, margins.nearer)
        return super().answer(clip, track, frames, margins)

    def facts(self, clip: Clip, track: Track, frame: int, spec: AskSpec) -> Mapping[str, str]:
        """Return the quarter in which it starts. Raises Ambiguous where another shares it."""
        def quarter(one: Track) -> str:
            x, y = geometry.box_center(one)[frame]
            return quarter_of(float(x), float(y), spec.margins.quarter)

        own = quarter(track)
        quarters = [quarter(one) for one in clip.tracks if one.name == track.name]
        if quarters.count(own) > 1:
            raise Ambiguous("lookalike: two start in one quarter")
        return {"quarter": own.lower()}

    def found_by(self, clip: Clip, track: Track, first: int, last: int, margins: Margins) -> None:
        del clip, track, first, last, margins  # It is called by its place.
