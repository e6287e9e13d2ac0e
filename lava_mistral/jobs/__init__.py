"""Embedding jobs: files in, Parquet parts or a Lance table out, as often interrupted as need be (extra `[job]`)."""

try:
    import pyarrow.parquet  # noqa: F401
except ImportError as error:
    raise ImportError('An embedding job needs an extra: pip install "lava-mistral[job]"') from error
from lava_mistral.jobs.embedding_job import EmbeddingJob, JobEstimate, JobProgress

__all__ = ["EmbeddingJob", "JobEstimate", "JobProgress"]
