"""What is asked: cases, models, data sets, recipes. Data types alone; nothing heavy is imported."""
