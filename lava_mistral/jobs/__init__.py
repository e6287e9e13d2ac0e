"""Embedding jobs: files in, a folder of Parquet parts out, as often interrupted as need be (extra `[job]`).

from lava_mistral.jobs import EmbeddingJob

job = EmbeddingJob("chunks/*.parquet", "vectors", text="text", id="id", columns=["source"])
print(job.estimate())
print(job.run(spend_limit="5"))
"""

from lava_mistral.jobs.embedding_job import EmbeddingJob, JobEstimate, JobProgress

__all__ = ["EmbeddingJob", "JobEstimate", "JobProgress"]
