"""`penstock schema`: JSON schemas of what `--json` prints."""
