"""Sign-in, sessions and the limits of strangers."""
