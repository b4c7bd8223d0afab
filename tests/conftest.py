"""Makes the modules beside it importable from every room of the tests."""
