"""Makes the documents' models and data known to pytest and to `bench`."""

pytest_plugins = ["fixtures.models", "fixtures.data"]
