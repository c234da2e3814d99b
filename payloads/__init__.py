"""Science: cameras, simulator, algorithms on arrays, PipelineTasks and pipelines, the job runner.

Reading order: camera (what a camera is), mask, ids · repository, packed, ingest (files into the Butler) · isr, combine,
characterize, astrometry (frames) · warp, coadd, objects · difference, real_bogus, association, alerts, tracklets · compiled
(their loops over pixels) · prompt (the sixty-second path) · tasks (PipelineTasks over them) ·
runner (executes quanta in a job) · simulator (skies and cameras with known truth).
"""
