"""Lists the commands: ``python -m fourd4d``."""

from __future__ import annotations

from rich.table import Table

from fourd4d.core.terminal import plain_console

COMMANDS = {
    "quickstart": "the whole chain once, small: data, DIFT, 4DRL, evaluation, a report",
    "synth": "questions, reasoning, overlays from videos or simulated scenes; data set tools",
    "dift": "fine-tuning: text and imagery supervised together",
    "rl": "4DRL: outcome rewards, policy gradient on text tokens",
    "eval": "scores a checkpoint on multiple-choice questions about videos",
    "train_page": "one page of training runs: curves over each other, sampled responses",
    "experiments": "trainings that differ in one thing, several seeds each, in one table",
    "eval probe": "asks whether a checkpoint's answers depend on what it imagines",
    "serve": "answers over HTTP, in the manner of OpenAI's chat completions; a page to try it",
    "convert": "checkpoints to and from Hugging Face safetensors, and to the hub",
    "bench": "measurements: speed, parity, replay, memory",
}


def main() -> None:
    table = Table("command", "what it does", box=None, header_style="bold")
    for name, text in COMMANDS.items():
        table.add_row(f"python -m fourd4d.{name}", text)
    out = plain_console()
    out.print(table)
    out.print("\nEach takes --help; those with a config take --config=FILE and "
              "--config.FIELD=VALUE.", soft_wrap=True)


if __name__ == "__main__":
    main()
