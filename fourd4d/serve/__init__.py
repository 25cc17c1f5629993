"""A checkpoint behind HTTP, in the manner of OpenAI's chat completions.

``spec`` says how much is served; ``requests`` and ``media`` read what comes in, and ``shapes`` says
what fits; ``worker`` decodes, on one thread, all requests together; ``replies`` writes what goes
out; ``app`` joins them. ``python -m fourd4d.serve`` starts it.
"""
