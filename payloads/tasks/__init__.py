"""PipelineTasks: thin wrappers that give array functions their inputs from, and outputs to, the Butler."""
