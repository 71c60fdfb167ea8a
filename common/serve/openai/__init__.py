"""The API that most clients of language models speak, whole or as a stream of events."""
