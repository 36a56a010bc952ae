"""Stage (a), shared by all methods: contract, banks, fit and artifact."""
