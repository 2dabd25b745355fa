"""Shows saved runs as tables, pivots, plots or a page, from records alone."""
