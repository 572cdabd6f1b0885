"""Where work runs: scheduling with retries, Ray, Kubernetes and Kubeflow. Knows nothing of images or text."""
