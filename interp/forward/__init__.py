"""Forward passes: recorded, resumed, packed and intervened in."""
