"""Floor 2: datasets on disk → batches. Grain pipelines, media loading, collation."""

from fourd4d.data.collate import collate, shape_for
