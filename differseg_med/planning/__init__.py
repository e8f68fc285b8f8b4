"""From the training cases of a cohort to a bundle of its own: fingerprint, rules, bundle."""
