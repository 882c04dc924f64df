"""Tables and figures of an evaluation."""
