"""A release's lineage in the forms that other tools read: OpenLineage, Workflow Run RO-Crate, MLflow."""
