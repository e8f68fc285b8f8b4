"""From a cohort to verified masks: data set, evaluator, results, writers, quality."""
