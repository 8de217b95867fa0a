"""HAProxy as the data plane: the same slots without root, in processes of an ordinary user."""
