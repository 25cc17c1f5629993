"""One mesh, one table from logical axes to mesh axes, and everything born sharded."""

from fourd4d.parallel.hosts import (
    batch_axes,
    ending_together,
    host_to_global,
    is_main,
    start,
    to_host,
)
from fourd4d.parallel.mesh import make_mesh
from fourd4d.parallel.rules import (
    DEFAULT_RULES,
    Rules,
    axes_that_split,
    constrain,
    in_this_context,
    local_shape,
    one_cpu,
    partition,
    platform,
    row_split,
    use,
)
from fourd4d.parallel.sharding import abstract_for, born_sharded, shardings_for

__all__ = [
    "DEFAULT_RULES", "Rules", "abstract_for", "axes_that_split", "batch_axes", "born_sharded",
    "constrain", "ending_together", "host_to_global", "in_this_context", "is_main", "local_shape",
    "make_mesh", "one_cpu", "partition", "platform", "row_split", "shardings_for", "start",
    "to_host", "use",
]
