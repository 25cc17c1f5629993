"use strict";

const about = JSON.parse(document.body.dataset.about);
const at = (id) => document.getElementById(id);
const BLOCK = /<\|latent_start\|>(?:<\|latent_pad\|>)*(?:<\|latent_end\|>)?/;

// What is asked about, the answer on show, and all answers that imagined something, as donors.
let medium = null, shown = null, asking = null;
const donors = [];

at("model").textContent = about.model;
at("tokens").max = about.max_tokens;
at("tokens").value = Math.min(256, about.max_tokens);
at("probing").hidden = !about.probes;

function tell(text) { at("told").textContent = text; }

function refresh() {
  const busy = asking !== null;
  at("ask").disabled = busy || !medium || !at("question").value.trim();
  at("stop").disabled = !busy;
  const imagined = shown !== null && shown.images.length > 0;
  const lacks = at("donor").options.length === 0;
  at("donor").hidden = at("swapping").hidden = lacks;
  for (const button of document.querySelectorAll("[data-probe]"))
    button.disabled = busy || !imagined || (button.dataset.probe === "swap" && lacks);
}

// The clip.

function open(file) {
  if (!file) return;
  const kind = file.type.split("/")[0];
  if (kind !== "video" && kind !== "image") { tell("That is neither a video nor a picture."); return; }
  tell("");
  const reader = new FileReader();
  reader.onerror = () => tell("The file cannot be read.");
  reader.onload = () => {
    medium = {kind, name: file.name, url: reader.result};
    at("drop").querySelector("span").textContent = file.name;
    at("stage").hidden = false;
    at("video").hidden = at("scrubbing").hidden = kind !== "video";
    at("still").hidden = kind !== "image";
    if (kind === "video") at("video").src = URL.createObjectURL(file);
    else at("still").src = reader.result;
    refresh();
  };
  reader.readAsDataURL(file);
}

const drop = at("drop"), video = at("video"), scrub = at("scrub");
at("file").addEventListener("change", (event) => open(event.target.files[0]));
for (const name of ["dragover", "dragenter"])
  drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const name of ["dragleave", "drop"])
  drop.addEventListener(name, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => { event.preventDefault(); open(event.dataTransfer.files[0]); });
drop.addEventListener("keydown", (event) => { if (event.key === "Enter") at("file").click(); });
video.addEventListener("error", () => {
  if (medium && medium.kind === "video") tell("This browser cannot show the clip; it can still be asked about.");
});
video.addEventListener("timeupdate", () => {
  if (video.duration) scrub.value = 1000 * video.currentTime / video.duration;
  at("clock").textContent = `${video.currentTime.toFixed(1)} s`;
});
video.addEventListener("pause", () => { at("play").textContent = "play"; });
video.addEventListener("play", () => { at("play").textContent = "pause"; });
scrub.addEventListener("input", () => {
  video.pause();
  if (video.duration) video.currentTime = scrub.value / 1000 * video.duration;
});
at("play").addEventListener("click", () => { if (video.paused) video.play(); else video.pause(); });

// The answer.

function options() {
  return at("options").value.split("\n").map((line) => line.trim()).filter(Boolean);
}

function span(kind, text) {
  const found = document.createElement("span");
  found.className = kind;
  found.textContent = text;
  return found;
}

// A response as it is read: marks in place of imagery, the answer apart from the thought.
function say(element, text) {
  const parts = text.replace(/<\/?think>\n?/g, "").split(BLOCK);
  element.replaceChildren(...parts.flatMap((part, i) => {
    const words = part.split(/\n?<answer>([^]*?)(?:<\/answer>|$)/)
      .map((piece, k) => k % 2 ? span("final", piece) : piece).filter((piece) => piece !== "");
    return i === 0 ? words : [span("mark", `image ${i}`), ...words];
  }));
}

function letterOf(answer) {
  if (!answer.options.length) return "";
  if (answer.letter === null) return "no answer in the form asked for";
  return `${answer.letter}. ${answer.options["ABCDEFGHIJ".indexOf(answer.letter)]}`;
}

function paint(images) {
  at("images").replaceChildren(...images.map((image) => {
    const figure = document.createElement("figure"), line = document.createElement("figcaption");
    const heat = (image.heat_maps || [])[0];
    if (heat) {
      const picture = document.createElement("img");
      picture.src = heat.png;
      picture.alt = `heat of mental image ${image.index + 1}`;
      figure.append(picture);
      if (heat.time !== null) figure.addEventListener("click", () => {
        video.pause();
        video.currentTime = heat.time;
      });
    }
    const when = heat && heat.time !== null ? `, looks at ${heat.time.toFixed(1)} s` : "";
    line.textContent = `image ${image.index + 1}${when}`;
    figure.append(line);
    return figure;
  }));
  at("imagined").textContent = images.length || !shown ?
    "In the order imagined; each over the frame that it looks at, bright where the clip resembles it most." :
    "Nothing was imagined on the way to this answer.";
}

// One request; its text goes to `live` as it comes. Gives text, letter and images.
async function request(probe, live) {
  const part = medium.kind === "video" ? {type: "video_url", video_url: {url: medium.url}} :
    {type: "image_url", image_url: {url: medium.url}};
  const listed = options(), question = at("question").value.trim();
  const own = {latents: true, heat_maps: "peak", imagery: at("imagery").checked};
  if (listed.length) own.options = listed;
  if (probe) own.probe = probe;
  asking = new AbortController();
  live.classList.add("live");
  refresh();
  try {
    const reply = await fetch("v1/chat/completions", {
      method: "POST", headers: {"content-type": "application/json"}, signal: asking.signal,
      body: JSON.stringify({
        model: about.model, stream: true, max_tokens: Number(at("tokens").value), fourd4d: own,
        messages: [{role: "user", content: [part, {type: "text", text: question}]}]}),
    });
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    const answer = {text: "", letter: null, images: [], options: listed, question, name: medium.name};
    let left = "";
    const decoder = new TextDecoder(), reader = reply.body.getReader();
    for (;;) {
      const {done, value} = await reader.read();
      if (done) throw new Error("The server hung up.");
      const events = (left + decoder.decode(value, {stream: true})).split("\n\n");
      left = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ")) continue;
        if (event === "data: [DONE]") return answer;
        const chunk = JSON.parse(event.slice(6));
        if (chunk.error) throw new Error(chunk.error.message);
        const [choice] = chunk.choices;
        answer.text += choice.delta.content || "";
        if (choice.fourd4d) {
          answer.letter = choice.fourd4d.letter;
          answer.images = choice.fourd4d.mental_images;
        }
        say(live, answer.text);
      }
    }
  } finally {
    asking = null;
    live.classList.remove("live");
    refresh();
  }
}

function guarded(work) {
  return async (event) => {
    tell("");
    try { await work(event); } catch (error) {
      tell(error.name === "AbortError" ? "Stopped." : error.message);
    }
    refresh();
  };
}

at("ask").addEventListener("click", guarded(async () => {
  shown = null;
  at("letter").textContent = "";
  say(at("answer"), "");
  at("probes").hidden = true;
  at("probes").tBodies[0].replaceChildren();
  paint([]);
  const answer = await request(null, at("answer"));
  shown = answer;
  at("letter").textContent = letterOf(answer);
  paint(answer.images);
  offer(answer);
  verdict(row("what it imagined"), answer, answer);
}));

// Latents of all images of an answer, one after the other, as the server takes them.
function latentsOf(answer) {
  const bytes = answer.images.map((image) => atob(image.latents.data)).join("");
  const [first] = answer.images;
  const count = answer.images.reduce((sum, image) => sum + image.latents.shape[0], 0);
  return {dtype: "float16", shape: [count, first.latents.shape[1]], data: btoa(bytes)};
}

// Imagery of other answers may be fed; the newest first.
function offer(answer) {
  const list = at("donor");
  list.replaceChildren(...donors.map((donor, i) => {
    const option = document.createElement("option");
    option.value = i;
    option.textContent = `${donor.name}: ${donor.question}`.slice(0, 60);
    return option;
  }).reverse());
  if (answer.images.length) donors.push(answer);
}

// A line of the table of probes, its response yet to come.
function row(fed) {
  const line = at("probes").tBodies[0].insertRow();
  for (const name of ["fed", "chosen", "verdict", "response"]) line.insertCell().className = name;
  line.cells[0].textContent = fed;
  at("probes").hidden = false;
  return line;
}

function verdict(line, answer, natural) {
  const [, chosen, cell, response] = line.cells;
  chosen.textContent = letterOf(answer);
  if (answer !== natural) {
    const same = natural.options.length && natural.letter !== null ?
      answer.letter === natural.letter : answer.text === natural.text;
    cell.classList.add(same ? "same" : "changed");
    cell.textContent = same ? "same" : "changed";
  }
  say(response, answer.text);
}

for (const button of document.querySelectorAll("[data-probe]")) {
  button.addEventListener("click", guarded(async () => {
    const kind = button.dataset.probe, natural = shown;
    const donor = kind === "swap" ? donors[Number(at("donor").value)] : null;
    const probe = donor ? {kind, latents: latentsOf(donor)} : {kind};
    const line = row(donor ? `images of ${donor.name}` : button.dataset.fed);
    try {
      verdict(line, await request(probe, line.cells[3]), natural);
    } catch (error) {
      line.remove();
      throw error;
    }
  }));
}

at("stop").addEventListener("click", () => { if (asking) asking.abort(); });
at("question").addEventListener("input", refresh);
refresh();
