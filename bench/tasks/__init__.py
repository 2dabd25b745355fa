"""The tasks: how a network's answers are judged. One file per task."""

from __future__ import annotations

from bench.spec.registry import Registry
from bench.tasks.task import Task

tasks: Registry[Task] = Registry("task")
tasks.add("classification", "bench.tasks.classification:TASK")
tasks.add("detection", "bench.tasks.detection:TASK")
tasks.add("segmentation", "bench.tasks.segmentation:TASK")
tasks.add("tokens", "bench.tasks.tokens:TASK")
tasks.add("embeddings", "bench.tasks.embeddings:TASK")
tasks.add("transcription", "bench.tasks.transcription:TASK")
tasks.add("audio", "bench.tasks.audio:TASK")
tasks.add("features", "bench.tasks.features:TASK")
tasks.add("restoration_rgb", "bench.tasks.restoration:RGB")
tasks.add("restoration_ycbcr", "bench.tasks.restoration:YCBCR")
tasks.add("restoration_grey", "bench.tasks.restoration:GREY")
tasks.add("generation", "bench.tasks.restoration:GENERATION")
