"""Examples on Amazon SageMaker: training, tuning, hosting and batch transform, and the same without an account."""
