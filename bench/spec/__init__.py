"""What is asked: cases, models, data sets, recipes. Only data types; nothing heavy is imported."""
