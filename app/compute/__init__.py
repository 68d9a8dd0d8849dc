"""What the screen needs computed: one engine for all sessions, and what it runs."""
