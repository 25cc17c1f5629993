"""The notebook is its script, and runs from top to bottom."""

import base64
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

jupytext = pytest.importorskip("jupytext")
ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "fourd4d.ipynb"


def cells(path):
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def test_notebook_and_script_are_a_pair():
    """``jupytext --to ipynb notebooks/fourd4d.py`` makes the notebook from the script."""
    assert cells(NOTEBOOK) == cells(NOTEBOOK.with_suffix(".py"))
    assert not any(cell.get("outputs") for cell in jupytext.read(NOTEBOOK).cells)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("FOURD4D_REPOSITORY", str(ROOT))
    monkeypatch.setenv("FOURD4D_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    notebook = jupytext.read(NOTEBOOK)
    nbclient.NotebookClient(notebook, timeout=1200, kernel_name="python3",
                            resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.data for cell in notebook.cells for output in cell.get("outputs", ())
             if output.output_type in ("display_data", "execute_result")]
    pictures = [np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data["image/png"]))))
                for data in shown if "image/png" in data]
    assert len(pictures) >= 4 and all(picture[..., :3].std() > 5 for picture in pictures)
    assert sum('class="fourd4d"' in data.get("text/html", "") for data in shown) >= 1
    assert (tmp_path / "work" / "probe" / "probe.json").is_file()
