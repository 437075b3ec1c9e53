"""One file a stage: read the parameters, call the library, write the outputs and the record."""
