"""`penstock exporter`: serves the metrics of streams and groups to Prometheus."""
