"""One file of activations: its layout, its sidecar, writing and reading."""
