"""Prompt ingest: takes frames from a camera and brings them over the wire to the prompt endpoint, then tells the worker.

One instance for each camera. Reading order: settings, announced (what a frame says of itself), spool (kept before the camera is
answered), forwarder (to the endpoint, then to the queue), app (the door), camera (a simulated camera at that door), cli.
"""
