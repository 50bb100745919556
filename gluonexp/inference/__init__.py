"""What was exported, used: predictions, evaluations, the MLflow model."""
