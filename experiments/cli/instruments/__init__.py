"""Commands that run one instrument on prompts that the user gives."""
