"""The web console: `penstock console`; needs the extra `console`."""
