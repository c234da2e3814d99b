"""`make demo`: raw frames to science products through a real Airflow, and what came of it.

Reading order: case (what there is to run, read from the repository), prepare (frames into a home), drive (DAG runs in order, with
progress), local (the same without Airflow), cli (the command).
"""
