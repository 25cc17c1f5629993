"""Does the answer depend on what was imagined? Interventions on latents, and what latents hold.

``python -m fourd4d.eval probe`` is the command; ``quick`` is for use inside another program.
"""

from fourd4d.eval.probes.run import Outcome, ProbeSpec, probe
from fourd4d.eval.probes.short import quick
from fourd4d.eval.probes.summary import summarise
from fourd4d.eval.probes.tables import ARMS

__all__ = ["ARMS", "Outcome", "ProbeSpec", "probe", "quick", "summarise"]
