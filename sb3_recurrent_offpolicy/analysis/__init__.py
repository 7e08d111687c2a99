"""
What a trained recurrent policy remembers, what for, and how far back.

All of it works on every policy with sb3-contrib's recurrent ``predict``; ``recall_density`` and ``quantize`` need the
networks of this package or of ``RecurrentPPO``. Needs ``pip install "sb3_recurrent_offpolicy[analysis]"``.
"""

from sb3_recurrent_offpolicy.analysis.contamination import Contamination, contamination
from sb3_recurrent_offpolicy.analysis.extraction import completed, extract_machine, learned, minimized
from sb3_recurrent_offpolicy.analysis.findings import Findings, findings_of
from sb3_recurrent_offpolicy.analysis.machine import MooreMachine
from sb3_recurrent_offpolicy.analysis.machine_drawing import draw_machine, write_dot
from sb3_recurrent_offpolicy.analysis.memory_use import MemoryUse, MemoryUseCallback, memory_use
from sb3_recurrent_offpolicy.analysis.page import write_page
from sb3_recurrent_offpolicy.analysis.probing import Probes, probe
from sb3_recurrent_offpolicy.analysis.quantized import QuantizedPolicy
from sb3_recurrent_offpolicy.analysis.quantizing import QuantizationReport, quantize
from sb3_recurrent_offpolicy.analysis.recall import RecallDensity, recall_density

__all__ = [
    "Contamination",
    "Findings",
    "MemoryUse",
    "MemoryUseCallback",
    "MooreMachine",
    "Probes",
    "QuantizationReport",
    "QuantizedPolicy",
    "RecallDensity",
    "completed",
    "contamination",
    "draw_machine",
    "extract_machine",
    "findings_of",
    "learned",
    "memory_use",
    "minimized",
    "probe",
    "quantize",
    "recall_density",
    "write_dot",
    "write_page",
]
