"""Making the running fleet match the config: look, plan, carry out."""
