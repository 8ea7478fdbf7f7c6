"""The command ``clusterjob``."""
