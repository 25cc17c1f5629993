"""Decoding with mental images by torch and transformers alone.

    model.generate(**inputs, custom_generate=DIRECTORY, trust_remote_code=True)

or ``from_pretrained(DIRECTORY, trust_remote_code=True)``, with or without these two; before
transformers 4.52, import this file and call ``generate(model, **inputs)``. A row draws text until
``<|latent_start|>``. Its next ``latent_size`` inputs are its own last hidden states, through the
imagery head, written as ``<|latent_pad|>``; then come ``<|latent_end|>`` and text. With the blind
reader a second stream, which sees no frames, is fed the same and speaks after a mental image.
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
    if (said := getattr(model.config, "fourd4d", None)) is None:
        raise ValueError("config.json has no 'fourd4d'; export with python -m fourd4d.convert")

    def setting(name, given):
        defaults = generation_config or model.generation_config
        return getattr(defaults, name, None) if given is None else given

    input_ids = inputs if input_ids is None else input_ids
    device, rows = input_ids.device, len(input_ids)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(device)
    if position_ids is None:
        position_ids = rope_ids(model.config, input_ids, mask, image_grid_thw, video_grid_thw,
                                second_per_grid_ts)
    if (position_ids := position_ids.to(device)).shape != (3, *input_ids.shape):
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
    media = (pixel_values, image_grid_thw), (pixel_values_videos, video_grid_thw)
    embeds, *deep = prompt_embeds(model, input_ids, media, pads)
    more = dict(visual_pos_masks=seen, deepstack_visual_embeds=[x[seen] for x in deep])
    last = torch.where(mask > 0, torch.arange(mask.shape[1], device=device), 0).amax(1)
    imaginer, reader = Stream(model, mask), None
    hidden = imaginer.feed(embeds, position_ids, mask, **more if deep else {})
    state = read = hidden[torch.arange(rows), last]
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
        written.append(tokens)
        count += imagined
        fed = torch.where(imagined[:, None], latent, model.get_input_embeddings()(tokens))[:, None]
        here = (following + step).expand(3, rows)[..., None]
        alive = live[:, None].to(mask.dtype)
        live = live & ~((block == 0) & torch.isin(tokens, ends))
        block = torch.where(starts, size + 1, (block - 1).clamp(min=0))
        if not live.any() or step + 1 == budget:
            break
        state = imaginer.feed(fed, here, alive)[:, 0]
        read = reader.feed(fed, here, alive)[:, 0] if reader else state
    sequences = torch.cat([input_ids, torch.stack(written, 1)], 1)
    if not return_dict_in_generate:
        return sequences
    return ModelOutput(sequences=sequences, latents=tuple(
        torch.stack(row) if row else state[:0] for row in latents))


class Stream:
    """The decoder with a cache of its own: embeddings in, hidden states after the norm out."""

    def __init__(self, model, mask):
        self.decoder = getattr(model.model, "language_model", model.model)
        new = "cache" in inspect.signature(self.decoder.forward).parameters
        self.name = "cache" if new else "past_key_values"
        self.cache, self.mask = DynamicCache(), mask[:, :0]

    def feed(self, embeds, positions, mask, **own):
        self.mask = torch.cat([self.mask, mask], 1)
        own |= {self.name: self.cache, "attention_mask": self.mask, "position_ids": positions}
        return self.decoder(inputs_embeds=embeds, use_cache=True, **own).last_hidden_state


def draw(logits, full, said, temperature, top_p, generator):
    """One token a row, of those that may be drawn; ``full`` rows begin no mental image."""
    logits[:, said["vocab"] :] = logits[:, said["forbidden"]] = MASKED
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

    revision = getattr(model.config, "_commit_hash", None)
    file = str(cached_file(model.config._name_or_path, HEAD, revision=revision))  # Or an OSError.
    like = model.get_output_embeddings().weight
    weights = {name: value.to(like) for name, value in load_file(file).items()}
    gate, up, down = (weights[f"imagery.{name}.weight"].T for name in ("gate", "up", "down"))
    return lambda h: h + (torch.nn.functional.silu(h @ gate) * (h @ up)) @ down


def prompt_embeds(model, ids, media, pads):
    """Token embeddings with features of images and videos, and those that DeepStack adds."""
    found = [model.get_input_embeddings()(ids)]
    visual = getattr(model, "visual", None) or model.model.visual
    for token, (pixels, grid) in zip(pads, media):
        if pixels is not None:
            out = visual(pixels.to(visual.dtype), grid_thw=grid)
            features = [out[0], *out[1]] if isinstance(out, tuple) else [
                getattr(out, "pooler_output", out), *getattr(out, "deepstack_features", ())]
            found += [torch.zeros_like(found[0])] * (len(features) - len(found))
            found = [x.masked_scatter((ids == token)[..., None], new.to(x))
                     for x, new in zip(found, features)]
    return found


def rope_ids(config, ids, mask, image_grids, video_grids, seconds):
    """(3, B, L) ids, arXiv 2409.12191: text goes on from the largest id of any axis."""
    merge = config.vision_config.spatial_merge_size
    pace = getattr(config.vision_config, "tokens_per_second", None)
    grids = [torch.as_tensor([] if x is None else x).tolist() for x in (image_grids, video_grids)]
    if pace is None:  # Times are text: every slot is an image.
        grids[1] = [[1, h, w] for t, h, w in grids[1] for _ in range(t)]
    media = [iter(found) for found in grids]
    times = iter([1.0] * ids.numel() if seconds is None else torch.as_tensor(seconds).tolist())
    out = torch.zeros((3, *ids.shape), dtype=torch.long)
    for row, keep in enumerate(mask.bool().cpu()):
        tokens, spans, at, start = ids[row].cpu()[keep].tolist(), [], 0, 0
        while at < len(tokens):
            span = torch.zeros((3, 1), dtype=torch.long)
            if tokens[at] in (config.image_token_id, config.video_token_id):
                moving = tokens[at] == config.video_token_id
                t, h, w = next(media[moving])
                step = torch.tensor(next(times) if moving else 0.0)
                axes = ((torch.arange(t) * step * (pace or 0)).long(),
                        torch.arange(h // merge), torch.arange(w // merge))
                span = torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(3, -1)
            spans.append(span + start)
            at, start = at + span.shape[1], int(spans[-1].max()) + 1
        out[:, row, keep] = torch.cat(spans, 1)
    return out
