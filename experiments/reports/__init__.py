"""Reports of runs: what they are made of, and how they become HTML, Markdown, SVG and CSV."""
