"""An Airflow provider for HTCondor: any executable on any pool, submitted once, waited for without holding a slot.

Reading order: settings (what a connection says), key (which task instance a job belongs to), description (what to run), states
(what a schedd says of a job), schedd (the contract), fake, server and remote (the contract over a child process), hook, trigger,
operator, links and pages. Nothing below `hook` knows Airflow. For users: docs/provider.md.
"""
