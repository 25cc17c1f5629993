"""Decoding with mental images by torch and transformers alone.

    model.generate(**inputs, custom_generate=DIRECTORY, trust_remote_code=True)

or ``from_pretrained(DIRECTORY, trust_remote_code=True)``, with or without these two. Where
transformers is older than 4.52, import this file and call ``generate(model, **inputs)``.

A row draws text until ``<|latent_start|>``. Its next ``latent_size`` inputs are then its own last
hidden states, through the imagery head, written as ``<|latent_pad|>``; ``<|latent_end|>`` follows,
and text goes on. With the ``blind`` reader, a second stream that sees no frames is fed the same;
from a row's first mental image on, text is drawn from it.
"""

# pyright: reportOptionalMemberAccess=false, reportArgumentType=false, reportCallIssue=false
import inspect

import torch
from transformers import DynamicCache
from transformers.utils import ModelOutput, cached_file

HEAD, MASKED = "imagery_head/model.safetensors", -1e30


@torch.no_grad()
def generate(model, inputs=None, generation_config=None, *, input_ids=None, attention_mask=None,
             position_ids=None, pixel_values=None, image_grid_thw=None, pixel_values_videos=None,
             video_grid_thw=None, second_per_grid_ts=None, mm_token_type_ids=None,
             max_new_tokens=None, do_sample=None, temperature=None, top_p=None, generator=None,
             imagery=True, max_latents=None, pad_token_id=None, return_dict_in_generate=False,
             use_cache=True, custom_generate=None, trust_remote_code=None, **others):
    """Return the ids of prompts and responses (B, L + T), as ``model.generate`` does.

    Args:
      inputs or input_ids: (B, L) prompts, padded on either side.
      position_ids: (3, B, L) M-RoPE ids; by default those of the paper and of transformers 4.51.
      second_per_grid_ts: seconds of each video's slots, as the processor returns them.
      max_new_tokens: most tokens of a response, latents included.
      do_sample: draw from softmax(logits / temperature) cut at ``top_p``; else greedy.
      generator: of a sampled run, for the device of the logits.
      imagery: False never begins a mental image.
      max_latents: most latents of a row; a row without room for a block begins no other.
      return_dict_in_generate: return ``sequences`` and ``latents``, (Q, D) of each row.

    Raises:
      ValueError: the config is not of an export, or an argument has no meaning here.
    """
    others["use_cache=False"] = None if use_cache else True
    if unknown := sorted(name for name, value in others.items() if value is not None):
        raise ValueError(f"decoding with imagery takes no {', '.join(unknown)}")
    said = getattr(model.config, "fourd4d", None)
    if said is None:
        raise ValueError("config.json has no 'fourd4d'; export with python -m fourd4d.convert")
    defaults = generation_config or model.generation_config

    def setting(name, given):
        return getattr(defaults, name, None) if given is None else given

    input_ids = inputs if input_ids is None else input_ids
    device, rows = input_ids.device, len(input_ids)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(device)
    if position_ids is None:
        position_ids = rope_ids(model.config, input_ids, mask, image_grid_thw, video_grid_thw,
                                second_per_grid_ts)
    position_ids = position_ids.to(device)
    if position_ids.shape != (3, *input_ids.shape):
        raise ValueError(f"position_ids have shape {tuple(position_ids.shape)}, not (3, B, L)")
    budget, size = setting("max_new_tokens", max_new_tokens), said["latent_size"]
    if budget is None:
        raise ValueError("give max_new_tokens")
    room = (said["max_latents"] if max_latents is None else max_latents) // size * imagery
    warmth = setting("temperature", temperature) if setting("do_sample", do_sample) else 0
    mass = 1.0 if (kept := setting("top_p", top_p)) is None else kept
    pad = setting("pad_token_id", pad_token_id) or 0
    head, ends = imagery_head(model, said), torch.tensor(said["ends"], device=device)

    pads = model.config.image_token_id, model.config.video_token_id
    seen = torch.isin(input_ids, torch.tensor(pads, device=device))
    embeds = prompt_embeds(model, input_ids, (pixel_values, pixel_values_videos),
                           (image_grid_thw, video_grid_thw), pads)
    last = torch.where(mask > 0, torch.arange(mask.shape[1], device=device), 0).amax(1)
    imaginer, reader = Stream(model, mask), None
    state = read = imaginer.feed(embeds, position_ids, mask)[torch.arange(rows), last]
    if said["reader"] and room:
        reader = Stream(model, mask)
        reader.feed(embeds, position_ids, mask * ~seen)
    following = torch.where(mask > 0, position_ids.amax(0), -1).amax(1) + 1

    live = mask.any(1)
    block, count = torch.zeros((2, rows), dtype=torch.long, device=device)
    written, latents = [], [[] for _ in range(rows)]
    for step in range(budget):
        spoken = torch.where((count > 0)[:, None], read, state)
        logits = model.get_output_embeddings()(spoken).float()
        drawn = draw(logits, count // size >= room, said, warmth, mass, generator)
        forced = torch.where(block > 1, said["latent_pad"], said["latent_end"])
        tokens = torch.where(live, torch.where(block == 0, drawn, forced), pad)
        imagined = live & (block > 1)
        latent = head(state)
        for row in imagined.nonzero()[:, 0].tolist():
            latents[row].append(latent[row])
        starts = live & (block == 0) & (tokens == said["latent_start"])
        ended = live & (block == 0) & torch.isin(tokens, ends)
        written.append(tokens)
        count += imagined
        fed = torch.where(imagined[:, None], latent, model.get_input_embeddings()(tokens))[:, None]
        here = (following + step).expand(3, rows)[..., None]
        alive = live[:, None].to(mask.dtype)
        block = torch.where(starts, size + 1, (block - 1).clamp(min=0))
        live = live & ~ended
        if not live.any() or step + 1 == budget:
            break
        state = imaginer.feed(fed, here, alive)[:, 0]
        read = reader.feed(fed, here, alive)[:, 0] if reader else state
    sequences = torch.cat([input_ids, torch.stack(written, 1)], 1)
    if not return_dict_in_generate:
        return sequences
    none = [state.new_zeros(0, state.shape[-1])]  # Of a row that imagined nothing.
    return ModelOutput(sequences=sequences, latents=tuple(
        torch.cat(none + [latent[None] for latent in row]) for row in latents))


class Stream:
    """The decoder with a cache of its own: embeddings in, hidden states after the norm out."""

    def __init__(self, model, mask):
        self.decoder = getattr(model.model, "language_model", model.model)
        new = "cache" in inspect.signature(self.decoder.forward).parameters
        self.name = "cache" if new else "past_key_values"
        self.cache, self.mask = DynamicCache(), mask[:, :0]

    def feed(self, embeds, positions, mask):
        self.mask = torch.cat([self.mask, mask], 1)
        own = {self.name: self.cache, "attention_mask": self.mask, "position_ids": positions}
        return self.decoder(inputs_embeds=embeds, use_cache=True, **own).last_hidden_state


def draw(logits, full, said, temperature, top_p, generator):
    """One token a row, of those that may be drawn; ``full`` rows begin no mental image."""
    logits[:, said["vocab"] :] = MASKED
    logits[:, said["forbidden"]] = MASKED
    logits[full, said["latent_start"]] = MASKED
    if not temperature:
        return logits.argmax(-1)
    logits = logits / temperature
    if top_p < 1:
        ordered = logits.sort(-1, descending=True).values
        before = (ordered.softmax(-1).cumsum(-1)[:, :-1] < top_p).sum(-1, keepdim=True)
        edge = ordered.gather(-1, before)
        logits = torch.where(logits >= edge, logits, MASKED)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def imagery_head(model, said):
    """Hidden state to latent: h, or h + down(silu(gate(h)) * up(h))."""
    if said["head"] == "identity":
        return lambda hidden: hidden
    from safetensors.torch import load_file

    at, revision = model.config._name_or_path, getattr(model.config, "_commit_hash", None)
    file = str(cached_file(at, HEAD, revision=revision))  # Or an OSError.
    kin = model.get_output_embeddings().weight
    weights = {name: value.to(kin) for name, value in load_file(file).items()}
    gate, up, down = (weights[f"imagery.{name}.weight"].T for name in ("gate", "up", "down"))
    return lambda h: h + (torch.nn.functional.silu(h @ gate) * (h @ up)) @ down


def prompt_embeds(model, ids, media, grids, pads):
    """Token embeddings, with merged features of images and videos in their places."""
    embeds = model.get_input_embeddings()(ids)
    visual = getattr(model, "visual", None) or model.model.visual
    for token, pixels, grid in zip(pads, media, grids):
        if pixels is not None:
            features = visual(pixels.to(visual.dtype), grid_thw=grid)
            features = getattr(features, "pooler_output", features).to(embeds)
            embeds = embeds.masked_scatter((ids == token)[..., None], features)
    return embeds


def rope_ids(config, ids, mask, image_grids, video_grids, seconds):
    """(3, B, L) ids, arXiv 2409.12191: text goes on from the largest id of any axis."""
    vision, merge = config.vision_config, config.vision_config.spatial_merge_size
    images, videos = (iter([] if grids is None else torch.as_tensor(grids).tolist())
                      for grids in (image_grids, video_grids))
    times = iter([1.0] * ids.numel() if seconds is None else torch.as_tensor(seconds).tolist())
    out = torch.zeros((3, *ids.shape), dtype=torch.long)
    for row, keep in enumerate(mask.bool().cpu()):
        tokens, spans, at, start = ids[row].cpu()[keep].tolist(), [], 0, 0
        while at < len(tokens):
            span = torch.zeros((3, 1), dtype=torch.long)
            if tokens[at] in (config.image_token_id, config.video_token_id):
                still = tokens[at] == config.image_token_id
                t, h, w = next(images if still else videos)
                step = torch.tensor(0.0 if still else next(times))
                axes = ((torch.arange(t) * step * vision.tokens_per_second).long(),
                        torch.arange(h // merge), torch.arange(w // merge))
                span = torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(3, -1)
            spans.append(span + start)
            at, start = at + span.shape[1], int(spans[-1].max()) + 1
        out[:, row, keep] = torch.cat(spans, 1)
    return out
