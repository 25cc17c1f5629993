"""No public function asks for more than eight things by place."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "fourd4d"
MOST = 8
# A compiled program's inputs: jit names its static ones by place.
JITTED = {"fourd4d/sampling/loop.py: step", "fourd4d/sampling/loop.py: generate",
          "fourd4d/sampling/refill.py: segment", "fourd4d/eval/probes/forced.py: forced"}


def by_place(tree: ast.AST, where: str = "", method: bool = False) -> dict[str, int]:
    """Parameters that may be given by place, of each public function and class."""
    found: dict[str, int] = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found |= by_place(node, f"{where}{node.name}.", True)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            static = any(getattr(d, "id", "") == "staticmethod" for d in node.decorator_list)
            if node.name == "__init__" or not node.name.startswith("_"):
                count = len(node.args.posonlyargs) + len(node.args.args)
                found[f"{where}{node.name}"] = count - (method and not static)
        elif isinstance(node, ast.If | ast.Try):
            found |= by_place(node, where, method)
    return found


def test_parameters_are_counted():
    code = ("def f(a, b=1, /, c=2, *rest, d, **more): pass\n"
            "def _hidden(a): pass\n"
            "class C:\n def __init__(self, a): pass\n def m(self, a, b): pass\n"
            " @staticmethod\n def s(a): pass\n def _p(self, a): pass\n"
            "if True:\n async def g(a): pass\n")
    assert by_place(ast.parse(code)) == {"f": 3, "C.__init__": 1, "C.m": 2, "C.s": 1, "g": 1}


def test_no_public_function_takes_more_than_eight_by_place():
    counts = {f"{path.relative_to(PACKAGE.parent)}: {name}": count
              for path in sorted(PACKAGE.rglob("*.py"))
              for name, count in by_place(ast.parse(path.read_text())).items()}
    assert len(counts) > 800
    assert {name for name, count in counts.items() if count > MOST} <= JITTED
