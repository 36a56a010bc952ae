"""The confounder dictionary and the backdoor-adjusted compensation."""
