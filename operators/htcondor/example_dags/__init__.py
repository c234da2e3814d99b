"""DAGs to read and to start from; no DAG bundle of ours has them (docs/provider.md says how to run one)."""
