"""The production engine, without Airflow: campaign, step, group, quantum; ledger, pools, failure rules.

Reading order: production (what a campaign is made from), ledger, planner, job (the contract with the runner), pools, advance,
publisher, campaigns (the public face), cli.
"""
