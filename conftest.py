"""What every test of the workspace can use: real servers, fresh databases, whole services."""

pytest_plugins = ["paybill_runtime.testing"]
