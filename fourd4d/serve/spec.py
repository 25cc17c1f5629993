"""How much a server takes on."""

from __future__ import annotations

import dataclasses

from fourd4d.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class ServeSpec:
    """Limits of a server. Each bounds memory or time that one client can take from the others.

    Attributes:
      slots: responses decoded at once.
      queue: requests accepted beyond those; more are told to come back (429).
      max_tokens: most tokens of a response, latents included; also the default of a request.
      max_text: tokens that the largest prompt has for its text.
      max_prompt: most tokens of a prompt.
      max_media: most pictures and videos of a request.
      max_frames: most frames of a video; 0 takes what the checkpoint was trained with.
      max_seconds: longest video, seconds.
      max_pixels: pixels of a request's decoded pictures and frames together.
      max_body: bytes of a request's body.
      max_choices: most responses to one request (n).
      timeout: seconds from a request's arrival to the end of its response.
      header_timeout: seconds that a client has to send a request's headers.
      drain: seconds that running requests have to end once the server is told to stop.
      turns: tokens decoded between looks at the queue; a stream moves by as many.
      workers: threads that decode media and tokenise.
    """

    slots: int = 16
    queue: int = 256
    max_tokens: int = 512
    max_text: int = 1024
    max_prompt: int = 16_384
    max_media: int = 64
    max_frames: int = 0
    max_seconds: float = 600.0
    max_pixels: int = 128_000_000
    max_body: int = 64 << 20
    max_choices: int = 8
    timeout: float = 300.0
    header_timeout: float = 30.0
    drain: float = 60.0
    turns: int = 8
    workers: int = 2

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("queue", "max_frames", "drain") else 1
            if field.name in ("timeout", "max_seconds", "header_timeout"):
                least = 0.001
            if not value >= least or value == float("inf"):
                raise InputError(f"--{field.name}", f"bad value {value}", f"Use {least} or more")
