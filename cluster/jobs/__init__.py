"""Jobs that are sent to a cluster: the description of a job, and the launcher contract of Ray, KubeRay and Kubeflow."""
