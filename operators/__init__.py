"""Airflow's side of Pachón: thin, it translates and delegates to workflow.campaigns.

Reading order: engine (where the installation is), conf (what a run may be asked for, without Airflow), params, priority, campaign
(start, step, backlog, summary), triggers, gate, door (command ↔ run), links, pages and plugin (the report in the web UI),
mornings, templates and science (what is written and started by itself, by commands of the science rooms),
batch (many triggers, one query), provider, htcondor (jobs of anybody), bootstrap (a new Airflow's tables, roles and pools).
"""
