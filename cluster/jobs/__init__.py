"""Jobs that are sent to a cluster: the description of a job, and the protocol of the launchers that send it."""
