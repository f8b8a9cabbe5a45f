"""Training, prediction and iterations in one framework each, and what the frameworks share."""
