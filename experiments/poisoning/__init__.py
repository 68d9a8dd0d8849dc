"""The study of poisoning: a phrase that brings a fixed answer, planted by few documents."""
