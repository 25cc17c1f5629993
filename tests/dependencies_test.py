"""What the package imports is required, and what is required is imported."""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Distribution, by the module that it brings.
BRINGS = {"orbax-checkpoint": "orbax", "tensorflow-datasets": "tensorflow_datasets",
          "opencv-python-headless": "cv2", "pillow": "PIL", "ml-collections": "ml_collections",
          "absl-py": "absl", "apache-beam": "apache_beam", "scikit-video": "skvideo",
          "protobuf": "google", "ipython": "IPython", "google-cloud-storage": "google"}
# Brought by others' wish: tensorflow-datasets imports it without requiring it.
UNIMPORTED = {"importlib_resources"}
# Extras whose packages the package imports where they are, and says so where they are not.
OPTIONAL = {"gcs", "synth", "sam", "quickstart", "parity", "parity5", "serve", "hub", "notebook"}
# Who calls the package, not whom it calls: its pins contradict the package's own.
CALLERS = {"lmms_eval"}


def requirements() -> tuple[set[str], dict[str, set[str]]]:
    """Modules that ``setup.py`` requires, and those of each extra."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    (extras,) = [ast.literal_eval(node.value) for node in tree.body
                 if isinstance(node, ast.Assign) and node.targets[0].id == "EXTRAS"]
    (required,) = [ast.literal_eval(word.value) for node in ast.walk(tree)
                   if isinstance(node, ast.Call) for word in node.keywords
                   if word.arg == "install_requires"]

    def modules(lines):
        names = [re.match(r"[\w-]+", line)[0] for line in lines]
        return {BRINGS.get(name, name) for name in names}

    return modules(required), {name: modules(lines) for name, lines in extras.items()}


def imported() -> dict[str, str]:
    """Modules of others that the package imports, with a file that does."""
    found = {}
    for path in sorted((ROOT / "fourd4d").rglob("*.py")):
        if "assets" in path.parts:  # Written into exports, for others to run.
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.partition(".")[0], str(path.relative_to(ROOT)))
    return {name: file for name, file in found.items()
            if name not in sys.stdlib_module_names and name not in ("fourd4d", "configs")}


def test_what_is_imported_is_required():
    required, extras = requirements()
    allowed = required.union(*(extras[name] for name in OPTIONAL))
    assert {name: file for name, file in imported().items()
            if name not in allowed | CALLERS} == {}


def test_what_is_required_is_imported():
    required, _ = requirements()
    assert required - UNIMPORTED - imported().keys() == set()
