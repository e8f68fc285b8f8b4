"""Pages and figures: one module per page, and what they share."""
