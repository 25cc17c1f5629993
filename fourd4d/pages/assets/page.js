"use strict";
for (const items of document.querySelectorAll(".items")) {
  const cards = [...items.querySelectorAll(".item")];
  const buttons = [...items.querySelectorAll("button[data-verdict]")];
  const kind = items.querySelector("select");
  const shown = items.querySelector("output");
  let verdict = "";
  const apply = () => {
    let count = 0;
    for (const card of cards) {
      const keep = (!verdict || card.dataset.verdict === verdict)
        && (!kind || !kind.value || card.dataset.kind === kind.value);
      card.hidden = !keep;
      count += keep;
    }
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.verdict === verdict));
    }
    shown.textContent = `${count} of ${cards.length} shown`;
  };
  for (const button of buttons) {
    button.addEventListener("click", () => { verdict = button.dataset.verdict; apply(); });
  }
  if (kind) kind.addEventListener("change", apply);
  apply();
}
