"""Datasets on disk → batches. Sources, media loading, collation, Grain pipelines."""

from fourd4d.data.collate import collate, shape_for
from fourd4d.data.failures import FailureLimit
from fourd4d.data.media import load_media
from fourd4d.data.pipeline import Prompt, dift_pipeline, measure, prompt_pipeline
from fourd4d.data.rows import Reading, Shard
from fourd4d.data.source import JsonlSource, ListSource, RecordSource, open_source
