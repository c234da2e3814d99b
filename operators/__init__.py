"""Airflow's side of Pachón: operators, triggers, gates; thin, they translate and delegate to workflow.campaigns."""
