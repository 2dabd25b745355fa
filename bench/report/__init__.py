"""How saved runs are shown: tables, pivots, plots, a page. It stands on records alone."""
