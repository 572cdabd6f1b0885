"""The run folder: atomic files on a disk or in an object store, the write lease, attempts, records and run.json."""
