"""The AWS account: session, prices, watching jobs, dry runs."""
