"""The network in integers: settling, freezing, the exact reference, storage."""
