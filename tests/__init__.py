"""The tests of SegmentDreamer; folders mirror the source. Helpers live in `tests.support`."""
