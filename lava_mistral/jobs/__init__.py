"""Embedding jobs: files in, Parquet parts or a Lance table out, as often interrupted as need be (extra `[job]`)."""

from lava_mistral.jobs.embedding_job import EmbeddingJob, JobEstimate, JobProgress

__all__ = ["EmbeddingJob", "JobEstimate", "JobProgress"]
