"""What figures share: colours, marks, axes, grids and words."""
