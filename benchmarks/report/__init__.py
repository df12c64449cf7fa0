"""What was measured, as a page with tables and plots."""
