"""The chain: what a filter is, and how filters become one call. Read `compose` first."""
